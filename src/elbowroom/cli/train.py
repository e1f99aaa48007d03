"""`elbowroom train`: train a VAE on a data set and save it as a folder for `elbowroom gaps --model`."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts.types import NonNegativeInt, PositiveInt
from torch import Tensor

from ..core import n_data
from ..datasets import DATASETS
from ..evidence import check_range, elbo
from ..measure import data_notes
from ..models import DecoderModel, likelihoods
from ..results import duration
from ..training import (
    WEIGHTS,
    AmortizedPosterior,
    Architecture,
    Epoch,
    Settings,
    architecture_of,
    build,
    fit,
    load_model,
    torchrun_team,
    training_progress,
    write_config,
)
from .data_spec import read_data, usual_rule
from .model_spec import LoadedModel, to_device
from .options import Binarize, FamilyName, LearningRateName, Switch, command_of, flattened
from .terminal import UserError, bars, say

__all__ = ["N_HELDOUT", "layer_sizes", "train_command"]

LikelihoodName = Literal["bernoulli", "continuous_bernoulli", "gaussian", "laplace", "discretized_logistic"]
LAYERS = {"mlp": ("200-200", "200-200"), "conv": ("64-128-256", "256-128-64")}
N_HELDOUT = 5000
NOT_RECORDED = {"out", "data_dir", "device", "checkpoint_seconds"}  # in a config's command: the machine's
TEST_SAMPLES = 16  # of the ELBO that is reported at the end


@flattened
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained on.

    Attributes:
        binarize: What gray pixels become. threshold: 0 or 1, cut at one half (the default for bernoulli); stochastic: 0
            or 1, drawn once; gray: pixel / 255 (the default for other likelihoods); gray256: pixel / 256. On gray
            pixels a bernoulli is not normalized. Arrays of floats stay as they are.
        n: Train on the first N data only.
        heldout: Number of training data to hold out, from the end; 5,000 by default with --patience. cifar10 has a
            validation set of its own.
    """

    binarize: Binarize | None = None
    n: PositiveInt | None = None
    heldout: NonNegativeInt = 0


@flattened
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What is trained.

    Attributes:
        networks: Kind of both networks: mlp (fully connected), or conv (convolutions, for images of 32 x 32).
        encoder: Widths of the encoder's hidden layers, or their channels. The default is 200-200, and 64-128-256 for
            conv; linear means no hidden layer.
        decoder: Widths of the decoder's hidden layers, or their channels. The default is 200-200, and 256-128-64 for
            conv.
        latents: Number of latent variables.
        family: Family of the posterior q(z|x). auxiliary-sigmoid is the q_AF of the paper, and auxiliary is one whose
            scales may also expand; both need --clip-norm. iaf, nsf and maf are flows of the package zuko (pip install
            elbowroom[flows]).
        likelihood: Distribution of x given the decoder's output.
        scale: Scale of a likelihood that has one: a number, learned (one parameter), or decoder (one more output).
        frozen: Folder of a trained model whose decoder, likelihood and latents are kept; only an encoder is trained.
    """

    networks: Literal["mlp", "conv"] = "mlp"
    encoder: str | None = None
    decoder: str | None = None
    latents: int = 50
    family: FamilyName = "diagonal"
    likelihood: LikelihoodName = "bernoulli"
    scale: str | None = None
    frozen: Path | None = None


@flattened
@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How it is trained.

    Attributes:
        batch_size: Number of data per step.
        learning_rate: Learning rate of Adam at the start.
        schedule: How the learning rate falls during training. stepped is the paper's, scaled to the number of epochs.
        objective: Bound that is maximized: elbo, or iwae with --samples draws.
        samples: Number of draws of z for each datum and step.
        annealing: What the warm-up weighs: the entropy of q (as in the paper), the whole kl divergence, or nothing.
        warmup: Number of epochs until that weight is 1. By default it is an eighth of the epochs, as in the paper.
        kl_weight: The beta of a beta-VAE.
        patience: Stop when the ELBO of held-out data has not risen for this many epochs, and keep the best epoch.
        clip_norm: Largest norm of a step's gradient; 0 means no limit. 150 steadies flows on images of 28 x 28.
        compile: Compile the step, which takes half a minute and makes training about a tenth faster.
    """

    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: LearningRateName = "cosine"
    objective: Literal["elbo", "iwae"] = "elbo"
    samples: int = 1
    annealing: Literal["entropy", "kl", "none"] = "entropy"
    warmup: int | None = None
    kl_weight: float = 1.0
    patience: int = 0
    clip_norm: float = 0.0
    compile: Switch = False

    def settings(self, epochs: int, seed: int) -> Settings:
        """The settings in the form that `training.fit` takes."""
        named = asdict(self)
        renamed = {"n_samples": named.pop("samples"), "compiled": named.pop("compile")}
        if named["warmup"] is None:
            named["warmup"] = 0 if self.annealing == "none" or self.objective == "iwae" else max(1, epochs // 8)
        return Settings(epochs=epochs, seed=seed, **named, **renamed)


def train_command(
    dataset: str,
    /,
    *,
    epochs: int = 200,
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    data: DataOptions = DataOptions(),
    networks: NetworkOptions = NetworkOptions(),
    steps: StepOptions = StepOptions(),
    half: Switch = False,
    keep: str | None = None,
    threads: PositiveInt = 1,
    device: str | None = None,
    checkpoint_seconds: float = 30.0,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        dataset: mnist, fashion-mnist, cifar10, or a file that holds an array with one datum per row (.npy, .npz,
            .safetensors, .pt).
        epochs: Passes over the training data. The paper's MLP on 60,000 images takes about 3 seconds each on one core.
        seed: Random seed of the weights, of the order of the data and of the noise.
        out: Folder of the model, zoo/DATASET by default. A folder that holds a finished model is refused.
        data_dir: Folder of the data set's files. It is looked in before the usual places.
        half: Save the weights in half precision. The file is half the size, and the ELBO moves by less than 0.001 nats.
        keep: Epochs after which the model is kept too, such as 1,10,100. Each is in a folder such as epoch-10 in --out.
        threads: Number of CPU threads. More speed up convolutions on an idle machine, but slow everything down several
            times where other programs are running.
        device: Torch device to train on.
        checkpoint_seconds: Least time between two checkpoints, in seconds. A run that is killed loses no more.
    """
    command = command_of("train", train_command, locals(), NOT_RECORDED)
    folder = out or Path("zoo") / Path(dataset).stem
    torch.set_num_threads(threads)
    settings, kept = steps.settings(epochs, seed), _epochs(keep)
    fixed, entries = _fixed_by_frozen(networks)
    rule = _rule(data.binarize, dataset, entries["likelihood"])
    read = partial(read_data, dataset, folder=data_dir, binarization=rule, seed=seed)
    n_held = data.heldout or (N_HELDOUT if settings.patience else 0)
    images, held_out = _held_out(dataset, read, data.n, n_held)
    if images.ndim < 2:
        raise UserError(f"{dataset}: expected one datum per row, (N, P); got shape {tuple(images.shape)}")
    architecture = _architecture(networks, entries, images)
    model, q = build(architecture, seed)
    if fixed is not None:
        model = fixed.requires_grad_(False)
    check_range(model, images)
    if device is not None:
        to_device(LoadedModel(model=model, q=q), device)
    command = f"{command} --out {folder}"
    trained_on = {"name": dataset, "split": "train", "n": len(images), "binarize": rule, "seed": seed}
    config = {"command": command, "data": trained_on, "architecture": asdict(architecture)}
    with _one_voice() as is_first:
        for note in data_notes(model, images):
            say(note)
        if dataset not in DATASETS or not _to_be_measured(folder, command):
            _refuse_finished(folder, command)
            _fit(model, q, images, held_out, settings, folder, config, checkpoint_seconds, half, kept)
    if not is_first:
        _leave()
    if dataset in DATASETS:
        _report_test(read(split="test"), folder, seed)
    beta = f" --kl-weight {settings.kl_weight:g}" if settings.kl_weight != 1 else ""
    say(f"measure it: elbowroom gaps --model {folder} --n 250{beta}")


@contextmanager
def _one_voice() -> Iterator[bool]:
    """A context in which the processes that torchrun started train together -> whether this is the first of them, or
    alone; the others print nothing.
    """
    with torchrun_team() as team, ExitStack() as stack:
        if team.rank:
            nothing = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
        yield team.rank == 0


def _leave() -> None:
    """End a process that torchrun started beside the first, which has nothing more to say.

    It ends at once, as the threads of torch's process group may outlive the interpreter and then abort the process, and
    torchrun would take the training for failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def layer_sizes(text: str) -> tuple[int, ...]:
    """Widths of layers from text: 500-500 gives (500, 500), and linear gives ()."""
    if text == "linear":
        return ()
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise UserError(f"{text}: expected widths such as 200-200, or linear") from None


def _epochs(text: str | None) -> tuple[int, ...]:
    """Epochs from text: 1,10,100 gives (1, 10, 100)."""
    words = [] if text is None else text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--keep {text}: expected epochs such as 1,10,100")
    return tuple(sorted({int(word) for word in words}))


def _fit(
    model: DecoderModel, q: AmortizedPosterior, images: Tensor, held_out: Tensor | None, settings: Settings,
    folder: Path, config: dict[str, Any], checkpoint_seconds: float, half: bool, keep: tuple[int, ...],
) -> None:  # fmt: skip
    """Train with a progress bar, and print one line on the result."""
    start = time.perf_counter()
    with bars("epochs") as add:
        so_far = training_progress(folder)
        if so_far is not None:
            print(f"resuming after {so_far}", file=sys.stderr, flush=True)
        advance = add(f"training on {config['data']['name']}", settings.epochs)

        def progress(epoch: Epoch) -> None:
            suffix = "" if epoch.heldout_elbo is None else f", held out {epoch.heldout_elbo:.2f}"
            advance(epoch.epoch, settings.epochs, f"ELBO {epoch.elbo:.2f}{suffix}")

        done = fit(
            model, q, images, settings, heldout=held_out, out=folder, config=config,
            checkpoint_seconds=checkpoint_seconds, half=half, keep=keep, progress=progress,
        )  # fmt: skip
    took = duration(time.perf_counter() - start)
    epochs = "1 epoch" if len(done) == 1 else f"{len(done)} epochs"
    if so_far is not None:
        epochs += ", the last of them after a break,"
    last = f"training ELBO of the last epoch: {done[-1].elbo:.2f} nats"
    say(f"{folder}: {epochs} on {len(images):,} data in {took}; {last}")


def _refuse_finished(folder: Path, command: str) -> None:
    """UserError where this training is finished and measured."""
    if (folder / WEIGHTS).exists() and load_model(folder)[2].get("command") == command:
        raise UserError(f"{folder}: this training is finished; measure it with elbowroom gaps --model {folder}")


def _to_be_measured(folder: Path, command: str) -> bool:
    """Whether the folder holds the model of this command, which was stopped between its last epoch and its test."""
    if not (folder / WEIGHTS).exists():
        return False
    config = load_model(folder)[2]
    return config.get("command") == command and "test_elbo" not in config


def _number(scale: str | None) -> float | str | None:
    try:
        return None if scale is None else float(scale)
    except ValueError:
        return scale


def _held_out(dataset: str, read: Callable[..., Tensor], n: int | None, n_held: int) -> tuple[Tensor, Tensor | None]:
    """The training data, and those held out of them or None."""
    images = read(split="train")[:n]
    if n_held == 0:
        return images, None
    if dataset == "cifar10":
        return images, read(split="valid")
    if not n_held < len(images):
        raise UserError(f"--heldout {n_held}: expected fewer than the {len(images)} training data")
    return images[:-n_held], images[-n_held:]


def _fixed_by_frozen(networks: NetworkOptions) -> tuple[DecoderModel | None, dict[str, Any]]:
    """The model whose decoder is kept, or None, and the entries of the architecture that do not belong to the encoder.

    Raises UserError if an option asks for something that the kept decoder does not have.
    """
    entries: dict[str, Any] = {
        "networks": networks.networks, "n_latent": networks.latents, "likelihood": networks.likelihood,
        "scale": _number(networks.scale),
        "decoder_hidden": None if networks.decoder is None else layer_sizes(networks.decoder),
    }  # fmt: skip
    if networks.frozen is None:
        return None, entries
    model, _, config = load_model(networks.frozen)
    frozen, usual = architecture_of(config["architecture"]), asdict(Architecture()) | {"decoder_hidden": None}
    own = {name: getattr(frozen, name) for name in entries}
    for name, value in entries.items():
        if value not in (usual[name], own[name]):
            raise UserError(
                f"--frozen {networks.frozen}: its {name} is {own[name]}; leave out the option that asks for {value}"
            )
    return model, own


def _architecture(networks: NetworkOptions, entries: dict[str, Any], images: Tensor) -> Architecture:
    """The architecture of networks for these images."""
    shape = tuple(images.shape[1:])
    encoder, decoder = LAYERS[entries["networks"]]
    hidden = entries["decoder_hidden"]
    return Architecture(
        n_in=shape[0] if len(shape) == 1 else shape,
        encoder_hidden=layer_sizes(networks.encoder or encoder),
        family=networks.family,
        **entries | {"decoder_hidden": layer_sizes(decoder) if hidden is None else hidden},
    )


def _rule(binarize: str | None, dataset: str, likelihood: str) -> str | None:
    """The rule for gray pixels: the one that was asked for, or the one that suits the likelihood."""
    if likelihood == "discretized_logistic" and binarize not in (None, "none", "gray"):
        raise UserError(f"--binarize {binarize}: discretized_logistic takes pixels k / 255, so --binarize gray")
    return binarize or (usual_rule(likelihood) if dataset in DATASETS else None)


def _report_test(images: Tensor, folder: Path, seed: int) -> None:
    """Measure the ELBO of the saved model on the test set, and write it into config.json."""
    model, q, config = load_model(folder)
    estimate = elbo(model, q, images, n_samples=TEST_SAMPLES, seed=seed)
    numbers = {"mean": estimate.mean, "se": estimate.se, "mc_se": estimate.mc_se}
    config["test_elbo"] = numbers | {"n": n_data(images), "n_samples": TEST_SAMPLES, "seed": seed}
    write_config(folder, config)
    bits = ""
    if config["architecture"]["likelihood"] == "discretized_logistic":
        bits = f", {likelihoods.bits_per_dim(estimate.mean, images[0].numel()):.3f} bits per dimension"
    say(f"ELBO of the {n_data(images):,} test data: {estimate.mean:.2f} nats (se {estimate.se:.2f}){bits}")
