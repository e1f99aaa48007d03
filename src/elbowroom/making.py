"""The commands that make what is measured: each reads its arguments, calls one function and prints what came back."""

import inspect
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from . import bounds, sources, train
from . import data as datasets
from .architecture import WEIGHTS, Architecture, architecture_of, build, load_model, write_config
from .blocks import n_data
from .checkpoints import read_epochs
from .checks import check_range, data_notes
from .likelihoods import bits_per_dim
from .repair import repair
from .settings import Epoch, Settings
from .terminal import UserError, bars, duration, say

__all__ = ["repair_", "train_"]

Binarize = Literal["threshold", "stochastic", "grey", "grey256", "none"]
FamilyName = Literal["diagonal", "full", "flow", "auxiliary", "auxiliary-sigmoid", "iaf", "nsf", "maf"]
LikelihoodName = Literal["bernoulli", "continuous_bernoulli", "gaussian", "laplace", "discretized_logistic"]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Hidden = Parameter(show=False)
LAYERS = {"mlp": ("200-200", "200-200"), "conv": ("64-128-256", "256-128-64")}
N_HELDOUT = 5000
N_SAMPLES = 16  # of the ELBO that is reported at the end
NOT_SAID = {"out", "data_dir", "device", "checkpoint_seconds"}  # what a config's command leaves out: the machine's


def train_(
    dataset: str,
    /,
    *,
    epochs: int = 200,
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    binarize: Binarize | None = None,
    networks: Literal["mlp", "conv"] = "mlp",
    encoder: str | None = None,
    decoder: str | None = None,
    latents: int = 50,
    family: FamilyName = "diagonal",
    likelihood: LikelihoodName = "bernoulli",
    scale: str | None = None,
    frozen: Path | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Literal["constant", "stepped", "cosine"] = "cosine",
    objective: Literal["elbo", "iwae"] = "elbo",
    samples: int = 1,
    annealing: Literal["entropy", "kl", "none"] = "entropy",
    warmup: int | None = None,
    kl_weight: float = 1.0,
    patience: int = 0,
    heldout: NonNegativeInt = 0,
    clip_norm: float = 0.0,
    compile: Flag = False,
    half: Flag = False,
    threads: PositiveInt | None = None,
    device: str | None = None,
    checkpoint_seconds: float = 30.0,
    n: Annotated[int | None, Hidden] = None,
) -> None:
    """Train a VAE, and save it as a folder for `elbowroom gaps --model`. Said again after a break, it goes on.

    Args:
        dataset: mnist, fashion-mnist, cifar10, or an array with one datum per row (.npy, .npz).
        epochs: Passes over the training data. The paper's MLP on 60,000 images takes about 3 seconds each on one core.
        seed: Of the weights, the order of the data and the noise.
        out: Folder of the model; models/DATASET by default. One that holds a finished model is refused.
        data_dir: Folder of the data set's files, looked in before the usual places.
        binarize: Pixels become 0 or 1, for a bernoulli at one half by default (threshold), or stay grey: pixel / 255,
            the default of the others, or / 256. Of grey ones a bernoulli is not normalized. Floats stay as they are.
        networks: mlp, or conv for 32 x 32 images.
        encoder: Widths of the encoder's hidden layers, or channels: 200-200 (conv: 64-128-256); linear for none.
        decoder: The same of the decoder: 200-200 (conv: 256-128-64).
        latents: Number of latents.
        family: Of q(z|x). auxiliary-sigmoid is the paper's q_AF, auxiliary one whose scales may also expand; both
            want --clip-norm. iaf, nsf and maf are flows of the package zuko (pip install elbowroom[flows]).
        likelihood: Of x given the decoder's output.
        scale: Of a likelihood with one: a number, learned, or decoder.
        frozen: Folder of a trained model whose decoder is kept, and all that belongs to it; only an encoder is trained.
        batch_size: Images per step.
        learning_rate: Of Adam, at the start.
        schedule: How the learning rate falls. stepped is the paper's, fitted to the number of epochs.
        objective: elbo, or iwae with --samples.
        samples: Draws of z for each datum and step.
        annealing: What the warm-up weighs: the entropy of q (the paper's), the whole kl, or none.
        warmup: Epochs until that weight is 1; by default an eighth of the epochs, as in the paper.
        kl_weight: The beta of a beta-VAE.
        patience: Stop when the ELBO of held-out data has not risen for so many epochs, and keep the best epoch.
        heldout: Training data to hold out, the last ones; 5,000 by default with --patience. cifar10 has its own.
        clip_norm: Largest norm of a step's gradient; 0 for no limit. 150 steadies flows on images of 28 x 28.
        compile: Compile the step: half a minute, then about a tenth faster.
        half: Save the weights in half precision: half the size; the ELBO moves by less than 0.001 nats.
        threads: CPU threads; two runs of one thread each get more done than one run of two.
        device: Torch device to train on.
        checkpoint_seconds: Least time between two checkpoints: what a killed run can lose.
    """
    command = _command(locals())
    folder = out or Path("models") / Path(dataset).stem
    if threads is not None:
        torch.set_num_threads(threads)
    if warmup is None:
        warmup = 0 if annealing == "none" or objective == "iwae" else max(1, epochs // 8)
    settings = Settings(
        epochs, seed, batch_size, learning_rate, schedule, objective, samples, annealing, warmup, kl_weight, patience,
        clip_norm, compile,
    )  # fmt: skip
    asked: dict[str, Any] = {
        "networks": networks, "n_latent": latents, "likelihood": likelihood, "scale": _number(scale),
        "decoder_hidden": None if decoder is None else _sizes(decoder),
    }  # fmt: skip
    kept = None if frozen is None else load_model(frozen)
    if kept is not None:
        asked = _kept(asked, frozen, architecture_of(kept[2]["architecture"]))
    rule = _rule(binarize, dataset, asked["likelihood"])
    read = partial(sources.dataset, dataset, folder=data_dir, binarize=rule, seed=seed)
    images, held = _held_out(dataset, read, n, heldout or (N_HELDOUT if patience else 0))
    shape = tuple(images.shape[1:])
    if not shape:
        raise UserError(f"{dataset}: expected one datum per row, (N, P); got shape {tuple(images.shape)}")
    usual = LAYERS[asked["networks"]]
    asked["decoder_hidden"] = _sizes(usual[1]) if asked["decoder_hidden"] is None else asked["decoder_hidden"]
    architecture = Architecture(
        shape[0] if len(shape) == 1 else shape, encoder_hidden=_sizes(encoder or usual[0]), family=family, **asked
    )
    model, q = build(architecture, seed)
    source = sources.Source(model if kept is None else kept[0].requires_grad_(False), q, {})
    check_range(source.model, images)
    for note in data_notes(source.model, images):
        say(note)
    if device is not None:
        sources.put_on(source, device)
    said = {"name": dataset, "split": "train", "n": len(images), "binarize": rule, "seed": seed}
    command = f"{command} --out {folder}"
    config = {"command": command, "data": said, "architecture": asdict(architecture)}
    measured = dataset in datasets.DATASETS
    if not (measured and _to_be_measured(folder, command)):
        _fit(source, images, held, settings, folder, config, checkpoint_seconds, half)
    if measured:
        _report_test(read(split="test"), folder, seed)
    beta = f" --kl-weight {kl_weight:g}" if kl_weight != 1 else ""
    say(f"measure it: elbowroom gaps --model {folder} --n 250{beta}")


def _fit(
    source: sources.Source, images: Any, held: Any, settings: Settings, folder: Path, config: dict[str, Any],
    checkpoint_seconds: float, half: bool,
) -> None:  # fmt: skip
    """`train.fit` with a bar, and a line on what came of it."""
    start = time.perf_counter()
    with bars("epochs") as add:
        advance = add(f"training on {config['data']['name']}", settings.epochs)

        def progress(epoch: Epoch) -> None:
            held_out = "" if epoch.heldout_elbo is None else f", held out {epoch.heldout_elbo:.2f}"
            rate = f"{len(images) / epoch.seconds:,.0f} images/s"
            advance(epoch.epoch, settings.epochs, f"ELBO {epoch.elbo:.2f}{held_out}, {rate}")

        done = train.fit(
            source.model, source.q, images, settings, heldout=held, out=folder, config=config,
            checkpoint_seconds=checkpoint_seconds, half=half, progress=progress,
        )  # fmt: skip
    took = duration(time.perf_counter() - start)
    say(f"{folder}: {len(done)} epochs in {took}; ELBO over the last one, on training data: {done[-1].elbo:.2f} nats")


def _to_be_measured(folder: Path, command: str) -> bool:
    """Whether the folder holds this command's model, and the run was broken off between its last epoch and its test."""
    if not (folder / WEIGHTS).exists():
        return False
    config = load_model(folder)[2]
    return config.get("command") == command and "test_elbo" not in config


def _command(given: dict[str, Any]) -> str:
    """The options that were given a value other than their default, as the command that gives them again."""
    words = ["elbowroom", "train", str(given["dataset"])]
    for name, parameter in inspect.signature(train_).parameters.items():
        value = given[name]
        if name in {"dataset", *NOT_SAID} or value == parameter.default:
            continue
        said = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [said])]
    return shlex.join(words)


def _sizes(text: str) -> tuple[int, ...]:
    """500-500 -> (500, 500); linear -> ()."""
    if text == "linear":
        return ()
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise UserError(f"{text}: expected widths such as 200-200, or linear") from None


def _number(scale: str | None) -> float | str | None:
    try:
        return None if scale is None else float(scale)
    except ValueError:
        return scale


def _held_out(dataset: str, read: Callable[..., Any], n: int | None, n_held: int) -> tuple[Any, Any]:
    """Training data, and data held out of them."""
    images = read(split="train")[:n]
    if n_held == 0:
        return images, None
    if dataset == "cifar10":
        return images, read(split="valid")
    if not n_held < len(images):
        raise UserError(f"--heldout {n_held}: expected fewer than the {len(images)} training data")
    return images[:-n_held], images[-n_held:]


def _kept(asked: dict[str, Any], folder: Path | None, kept: Architecture) -> dict[str, Any]:
    """What a frozen decoder fixes; UserError where an option asks for something else."""
    usual = asdict(Architecture()) | {"decoder_hidden": None}
    own = {name: getattr(kept, name) for name in asked}
    for name, value in asked.items():
        if value not in (usual[name], own[name]):
            raise UserError(f"--frozen {folder}: its {name} is {own[name]}; leave out the option that asks for {value}")
    return own


def _rule(binarize: str | None, dataset: str, likelihood: str) -> str | None:
    """What pixels become: the rule that was named, or else the one that suits the likelihood."""
    if likelihood == "discretized_logistic" and binarize not in (None, "none", "grey"):
        raise UserError(f"--binarize {binarize}: discretized_logistic takes pixels k / 255, so --binarize grey")
    usual = "threshold" if likelihood == "bernoulli" else "grey"
    return binarize or (usual if dataset in datasets.DATASETS else None)


def _report_test(images: Any, folder: Path, seed: int) -> None:
    """The ELBO of the test set, of the model as it was saved, into config.json."""
    model, q, config = load_model(folder)
    found = bounds.elbo(model, q, images, n_samples=N_SAMPLES, seed=seed)
    numbers = {"mean": found.mean, "se": found.se, "mc_se": found.mc_se}
    config["test_elbo"] = numbers | {"n": n_data(images), "n_samples": N_SAMPLES, "seed": seed}
    write_config(folder, config)
    bits = ""
    if config["architecture"]["likelihood"] == "discretized_logistic":
        bits = f", {bits_per_dim(found.mean, images[0].numel()):.3f} bits per dimension"
    say(f"ELBO of the {n_data(images):,} test data: {found.mean:.2f} nats (se {found.se:.2f}){bits}")


def repair_(
    folder: Path,
    /,
    *,
    epochs: int = 50,
    seed: int = 0,
    out: Path | None = None,
    encoder: str | None = None,
    family: FamilyName | None = None,
    fresh: Flag = False,
    data_dir: Path | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Literal["constant", "stepped", "cosine"] = "cosine",
    patience: int = 0,
    clip_norm: float = 0.0,
    n: int = 250,
    plan: Literal["quick", "standard"] = "quick",
    threads: PositiveInt | None = None,
    device: str | None = None,
) -> None:
    """Retrain the encoder of a model on its frozen decoder, and say how much of its amortization gap comes back.

    The new encoder goes on from the old one's weights where it has its size and family.

    Args:
        folder: A folder of `elbowroom train`, on a data set with a test set.
        epochs: Passes over the training data.
        seed: Of new weights, the order of the data and every draw.
        out: Folder for the repaired model; FOLDER-repaired by default. A drop-in: decoder and new encoder.
        encoder: Widths of the new encoder's hidden layers, such as 500-500; by default those of the old.
        family: Of the new q; by default that of the old.
        fresh: Start from new weights in any case.
        data_dir: Folder of the data set's files, looked in before the usual places.
        batch_size: Images per step.
        learning_rate: Of Adam, at the start.
        schedule: How the learning rate falls.
        patience: Stop when the ELBO of 5,000 training data held out has not risen for so many epochs; keep the best.
        clip_norm: Largest norm of a step's gradient; 0 for no limit. An auxiliary flow wants it, 150 or so.
        n: How many random data of each set the ladder is measured on.
        plan: By which plan.
        threads: CPU threads.
        device: Torch device to work on.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    home = folder if folder.name not in ("", "..") else folder.resolve()
    target = out or home.with_name(f"{home.name}-repaired")
    source, config = _with_its_data(folder, data_dir)
    old = architecture_of(config["architecture"])
    new = replace(
        old, encoder_hidden=old.encoder_hidden if encoder is None else _sizes(encoder), family=family or old.family
    )
    _, new_q = build(new, seed)
    if new == old and not fresh:
        new_q.load_state_dict(source.q.state_dict())
    if device is not None:
        sources.put_on(source, device)
        new_q.to(device)
    settings = Settings(epochs, seed, batch_size, learning_rate, schedule, patience=patience, clip_norm=clip_norm)
    data, stop_by = source.sets["train"], None
    if patience:
        data, stop_by = data[:-N_HELDOUT], data[-N_HELDOUT:]
    said = {"data": config["data"], "architecture": asdict(new), "repaired": str(folder)}
    done = _repaired(target, said, settings, new_q)
    with bars("epochs") as add:
        advance = add(f"repairing {folder}", epochs)
        found = repair(
            source.model, source.q, new_q, data, source.sets["test"], settings, n=n, plan=plan, out=target,
            config=said, stop_by=stop_by, done=done,
            progress=lambda epoch: advance(epoch.epoch, epochs, f"ELBO {epoch.elbo:.2f}"),
        )  # fmt: skip
    write_config(target, load_model(target)[2] | {"repair": found.said()})
    say(str(found))
    if new.family != old.family:
        say(f"The new q is {new.family}: part of what it recovers may be the old family's loss, not the old encoder's.")
    say(f"\nsaved in {target}, to be used in place of {folder}")


def _repaired(target: Path, said: dict[str, Any], settings: Settings, new_q: Any) -> tuple[Epoch, ...]:
    """The epochs of this very repair, and its weights in new_q, where it was broken off before its measurement."""
    if not (target / WEIGHTS).exists():
        return ()
    _, q, config = load_model(target)
    now = json.loads(json.dumps({**said, "training": {**config.get("training", {}), **settings.said()}}))
    if config != now:  # another one, or one with its measurement
        raise UserError(f"{target}: holds a model already; name another folder with --out")
    new_q.load_state_dict(q.state_dict())
    return read_epochs(target)


def _with_its_data(folder: Path, data_dir: Path | None) -> tuple[sources.Source, dict[str, Any]]:
    """A trained model with the training and test sets that its config names, and the config."""
    model, q, config = load_model(folder)
    said = config.get("data", {})
    if "name" not in said or Path(said["name"]).suffix:
        raise UserError(f"{folder}: expected a model that `elbowroom train` made of a named data set; none is named")
    rule = (data_dir, said.get("binarize", "threshold"), said.get("seed", 0))
    sets = {split: sources.dataset(said["name"], split, *rule) for split in ("train", "test")}
    return sources.Source(model, q, sets), config
