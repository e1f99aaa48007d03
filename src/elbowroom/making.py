"""The commands that make what is measured: each reads its arguments, calls one function and prints what came back."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from . import sources, train
from .terminal import bars, duration, say

__all__ = ["train_"]

Binarize = Literal["threshold", "stochastic", "grey"]
Hidden = Parameter(show=False)


def train_(
    dataset: str,
    /,
    *,
    epochs: int = 200,
    seed: int = 0,
    out: Path | None = None,
    data: Path | None = None,
    binarize: Binarize = "threshold",
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Literal["constant", "stepped", "cosine"] = "cosine",
    warmup: int = 25,
    kl_weight: float = 1.0,
    latents: int = 50,
    device: str | None = None,
    n: Annotated[int | None, Hidden] = None,
) -> None:
    """Train a fully connected VAE, 784-200-200-50 and back, and save it as a folder for `elbowroom gaps --model`.

    Args:
        dataset: fashion-mnist or mnist. The files are looked for on this machine, never downloaded.
        epochs: Passes over the 60,000 training images, about 4 seconds each on one core.
        seed: Of the weights, the order of the data and the noise.
        out: Folder of the model; models/DATASET by default. One that holds a model already is refused.
        data: Folder of the IDX files, looked in before the usual places.
        binarize: threshold (above one half), stochastic (drawn once), or grey (not binary).
        batch_size: Images per step.
        learning_rate: Of Adam, at the start.
        schedule: How the learning rate falls.
        warmup: Epochs until the entropy of q has its full weight.
        kl_weight: The beta of a beta-VAE.
        latents: Number of latents.
        device: Torch device to train on.
    """
    folder = out or Path("models") / dataset
    images = sources.dataset(dataset, "train", data, binarize, seed)[:n]
    architecture = train.Architecture(n_latent=latents)
    source = sources.Source(*train.build(architecture, seed), {})
    if device is not None:
        sources.put_on(source, device)
    said = {"name": dataset, "split": "train", "n": len(images), "binarize": binarize, "seed": seed}
    start = time.perf_counter()
    with bars("epochs") as add:
        advance = add(f"training on {dataset}", epochs)

        def progress(epoch: train.Epoch) -> None:
            advance(epoch.epoch, epochs, f"ELBO {epoch.elbo:.2f}, {epoch.seconds:.1f} s per epoch")

        done = train.fit(
            source.model, source.q, images, epochs=epochs, seed=seed, batch_size=batch_size,
            learning_rate=learning_rate, schedule=schedule, warmup=warmup, kl_weight=kl_weight, out=folder,
            progress=progress,
            config={"data": said, "architecture": asdict(architecture)},
        )  # fmt: skip
    beta = f" --kl-weight {kl_weight:g}" if kl_weight != 1 else ""
    took = duration(time.perf_counter() - start)
    say(f"{folder}: {epochs} epochs in {took}; ELBO over the last one, on training data: {done[-1].elbo:.2f} nats")
    say(f"measure it: elbowroom gaps --model {folder} --n 250{beta}")
