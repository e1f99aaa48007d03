"""`elbowroom repair`: train a new encoder on the frozen decoder of a trained model, and measure what it recovers."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts.types import PositiveInt
from torch import Tensor

from ..models import DecoderModel
from ..training import (
    WEIGHTS,
    AmortizedPosterior,
    Epoch,
    Settings,
    architecture_of,
    build,
    load_model,
    read_epochs,
    repair,
    write_config,
)
from .data_spec import read_data
from .model_spec import LoadedModel, to_device
from .options import FamilyName, LearningRateName, Switch
from .terminal import UserError, bars, say
from .train import N_HELDOUT, layer_sizes

__all__ = ["repair_command"]


def repair_command(
    folder: Path,
    /,
    *,
    epochs: int = 50,
    seed: int = 0,
    out: Path | None = None,
    encoder: str | None = None,
    family: FamilyName | None = None,
    fresh: Switch = False,
    data_dir: Path | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: LearningRateName = "cosine",
    patience: int = 0,
    clip_norm: float = 0.0,
    n: int = 250,
    plan: Literal["quick", "standard"] = "quick",
    threads: PositiveInt = 1,
    device: str | None = None,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        folder: A folder of `elbowroom train`, whose model was trained on a data set that has a name.
        epochs: Passes over the training data.
        seed: Random seed of new weights, of the order of the data and of the measurement.
        out: Folder of the repaired model, which holds the old decoder and the new encoder. FOLDER-repaired by default.
        encoder: Widths of the new encoder's hidden layers, such as 500-500. By default they are those of the old.
        family: Family of the new posterior q. By default it is that of the old one.
        fresh: Start from new weights, even where the old encoder's would fit.
        data_dir: Folder of the data set's files. It is looked in before the usual places.
        batch_size: Images per step.
        learning_rate: Learning rate of Adam at the start.
        schedule: How the learning rate falls during training.
        patience: Hold out 5,000 training data, stop when their ELBO has not risen for this many epochs, and keep the
            best epoch.
        clip_norm: Largest norm of a step's gradient; 0 means no limit. An auxiliary flow needs one, such as 150.
        n: Number of data, drawn at random from each set, on which the ladder is measured.
        plan: Plan of the measurement; see elbowroom gaps --help.
        threads: Number of CPU threads; see elbowroom train --help.
        device: Torch device to work on.
    """
    torch.set_num_threads(threads)
    home = folder if folder.name not in ("", "..") else folder.resolve()
    target = out or home.with_name(f"{home.name}-repaired")
    model, q, sets, config = _with_its_data(folder, data_dir)
    old = architecture_of(config["architecture"])
    new = replace(
        old, encoder_hidden=old.encoder_hidden if encoder is None else layer_sizes(encoder), family=family or old.family
    )
    _, new_q = build(new, seed)
    if new == old and not fresh:
        new_q.load_state_dict(q.state_dict())
    if device is not None:
        to_device(LoadedModel(model=model, q=q), device)
        new_q.to(device)
    settings = Settings(
        epochs=epochs, seed=seed, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule,
        patience=patience, clip_norm=clip_norm,
    )  # fmt: skip
    data, stop_by = sets["train"], None
    if patience:
        data, stop_by = data[:-N_HELDOUT], data[-N_HELDOUT:]
    described = {"data": config["data"], "architecture": asdict(new), "repaired": str(folder)}
    done = _done_already(target, described, settings, new_q)
    with bars("epochs") as add:
        advance = add(f"repairing {folder}", epochs)
        outcome = repair(
            model, q, new_q, data, sets["test"], settings, n=n, plan=plan, out=target, config=described,
            stop_by=stop_by, done=done,
            progress=lambda epoch: advance(epoch.epoch, epochs, f"ELBO {epoch.elbo:.2f}"),
        )  # fmt: skip
    write_config(target, load_model(target)[2] | {"repair": outcome.to_json()})
    say(str(outcome))
    if new.family != old.family:
        say(f"The new q is {new.family}: part of what it recovers may be the old family's loss, not the old encoder's.")
    say(f"\nsaved in {target}, to be used in place of {folder}")


def _done_already(
    target: Path, described: dict[str, Any], settings: Settings, new_q: AmortizedPosterior
) -> tuple[Epoch, ...]:
    """The epochs of this same repair, with its weights loaded into new_q, if it was stopped before its measurement."""
    if not (target / WEIGHTS).exists():
        return ()
    _, q, config = load_model(target)
    now = json.loads(json.dumps({**described, "training": {**config.get("training", {}), **settings.to_json()}}))
    if config != now:  # another one, or one with its measurement
        raise UserError(f"{target}: holds a model already; name another folder with --out")
    new_q.load_state_dict(q.state_dict())
    return read_epochs(target)


def _with_its_data(
    folder: Path, data_dir: Path | None
) -> tuple[DecoderModel, AmortizedPosterior, dict[str, Tensor], dict[str, Any]]:
    """A trained model, the training and test sets that its config names, and the config."""
    model, q, config = load_model(folder)
    trained_on = config.get("data", {})
    name = trained_on.get("name")
    if name is None or Path(name).suffix:
        raise UserError(f"{folder}: expected a model that `elbowroom train` made of a named data set; none is named")
    rule = (data_dir, trained_on.get("binarize", "threshold"), trained_on.get("seed", 0))
    sets = {split: read_data(name, split, *rule) for split in ("train", "test")}
    return model, q, sets | {"train": sets["train"][: trained_on.get("n")]}, config
