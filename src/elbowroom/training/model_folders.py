"""Saving a trained VAE as a folder, and loading it.

The folder holds `config.json`, whose `architecture` says how to build the networks, and `model.safetensors` with their
weights, whose names begin with "q." and "model.". During training `checkpoint.safetensors` takes the place of the
latter. Nothing is pickled; files are written under a temporary name, synced and renamed.
"""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from ..models import DecoderModel
from .architecture import AmortizedPosterior, build
from .weight_files import (
    CHECKPOINT,
    CONFIG,
    WEIGHTS,
    ensure_folder,
    load_state,
    modules_by_prefix,
    read_tensors,
    state_of,
    to_half,
    write_config,
    write_tensors,
)

__all__ = ["demo_model", "load_model", "save_model", "shipped", "training_progress"]


def save_model(folder: str | Path, q: nn.Module, model: object, config: Mapping[str, Any], half: bool = False) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each whole or not at all.

    Args:
        folder: made where there is none.
        q: the posterior.
        model: the model; its weights are saved if it is a module.
        config: `config["architecture"]`, as from `asdict(Architecture(...))`, is what `load_model` builds from. Without
            it the weights are saved, but `load_model` cannot build the networks.
        half: write float16, which halves the size; measurements of the loaded model then differ a little.
    Raises:
        ValueError: `folder` is a file, or `config` holds a number that is not finite.
    """
    folder = ensure_folder(folder)
    state = state_of(modules_by_prefix(q, model))
    write_tensors(folder / WEIGHTS, to_half(state) if half else state)
    write_config(folder, config)


def load_model(
    folder: str | Path, unfinished: bool = False
) -> tuple[DecoderModel, AmortizedPosterior, dict[str, Any]]:
    """Load (model, q, config) from a folder that `save_model` or `fit` wrote, on the CPU and in evaluation mode.

    Args:
        folder: the folder.
        unfinished: load the weights of the last checkpoint if the training has not ended.
    Raises:
        FileNotFoundError: the config or the weights are missing.
        ValueError: a file is damaged, there is no architecture or the weights do not fit it, or the training has not
            ended and `unfinished` is False.
    """
    folder = Path(folder)
    config = _config(folder)
    if "architecture" not in config:
        raise ValueError(
            f"{folder / CONFIG}: no `architecture` to build the networks from; the weights can be read with safetensors"
        )
    so_far = training_progress(folder)
    if so_far is not None and not unfinished:
        raise ValueError(
            f"{folder}: unfinished: {so_far}. Run its training again to finish it, or ask for the unfinished model "
            "(option --unfinished of gaps and check; in Python er.training.load_model(folder, unfinished=True))"
        )
    model, q = build(config["architecture"])
    modules = modules_by_prefix(q, model)
    path = next((folder / name for name in (WEIGHTS, CHECKPOINT) if (folder / name).is_file()), None)
    if path is None and "training" in config:
        raise FileNotFoundError(
            f"{folder}: its training was stopped before its first checkpoint was written; run it again"
        )
    if path is None:
        raise FileNotFoundError(f"{folder}: expected a model's folder with {CONFIG} and {WEIGHTS}; no {WEIGHTS} there")
    state, _ = read_tensors(path)
    if path.name == CHECKPOINT:
        state = {name: value for name, value in state.items() if name.split(".")[0] in modules}
    load_state(modules, state, path)
    return model.eval(), q.eval(), config


def training_progress(folder: str | Path) -> str | None:
    """How far a training that has not ended has come, such as "epoch 4 of 50"; None for any other folder.

    Raises:
        FileNotFoundError: a checkpoint without a config.
        ValueError: a damaged config.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).exists() or not (folder / CHECKPOINT).exists():
        return None
    training = _config(folder).get("training", {})
    return f"epoch {training.get('epochs_done', '?')} of {training.get('epochs', '?')}"


def _config(folder: Path) -> dict[str, Any]:
    """The config of a model's folder. Raises FileNotFoundError or ValueError where there is none."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: expected a model's folder with {CONFIG} and {WEIGHTS}; no {CONFIG} there")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG}: expected a mapping; got a {type(config).__name__}")
    return config


def shipped(name: str = "fashion-mnist") -> tuple[DecoderModel, AmortizedPosterior]:
    """Load (model, q) of a model that comes with the package.

    Raises:
        ValueError: no shipped model has this name.
    """
    assets = resources.files("elbowroom") / "assets"
    names = sorted(entry.name for entry in assets.iterdir() if (entry / WEIGHTS).is_file())
    if name not in names:
        raise ValueError(f"no shipped model is named {name!r}; there is {', '.join(names) or 'none'}")
    with resources.as_file(assets / name) as folder:
        return load_model(folder)[:2]


def demo_model() -> tuple[DecoderModel, AmortizedPosterior]:
    """Load (model, q) of the demo: the paper's VAE on thresholded Fashion-MNIST, for `datasets.demo_images`."""
    return shipped("fashion-mnist")
