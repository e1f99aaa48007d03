"""Make the shipped demo: train the paper's VAE on Fashion-MNIST, and pack 250 + 250 of its images.

    python tools/make_demo_assets.py src/elbowroom/assets/fashion-mnist

About a quarter of an hour on one core. The same command on the same machine and torch gives the same weights.
It reads the official IDX files where `elbowroom.datasets` looks for them, and writes config.json,
model.safetensors, images.npz (bits, and each image's index in its split) and the data's license.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbowroom.core import seeded
from elbowroom.datasets import binarize, fashion_mnist
from elbowroom.evidence import elbo
from elbowroom.training import Architecture, Settings, build, fit, load_model, save_model

COMMAND = "python tools/make_demo_assets.py src/elbowroom/assets/fashion-mnist"
SEED, EPOCHS, WARMUP, BATCH_SIZE, SCHEDULE = 0, 200, 25, 100, "cosine"
N_IMAGES, N_EVALUATED, N_SAMPLES = 250, 10_000, 16
LICENSE = """\
images.npz holds 500 images of Fashion-MNIST (Han Xiao, Kashif Rasul, Roland Vollgraf, 2017),
reduced to one bit a pixel; model.safetensors was trained on Fashion-MNIST. The data set is
distributed under this license:

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model and pack the demo images.")
    parser.add_argument("out", type=Path, help="folder to write; files of the same names are replaced")
    parser.add_argument("--data", type=Path, default=None, help="folder of the Fashion-MNIST IDX files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one core, and sums in one order
    images = {split: binarize(fashion_mnist(split, arguments.data)) for split in ("train", "test")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    pack(images, arguments.out)
    make_model(images, arguments.out, arguments.epochs)


def pack(images: dict[str, Tensor], out: Path) -> None:
    """A seeded random sample of each split, as bits."""
    held: dict[str, Any] = {}
    for name, split in (("train", "train"), ("heldout", "test")):
        order = torch.randperm(len(images[split]), generator=seeded(SEED, "demo images", split))
        index = order[:N_IMAGES].sort().values
        held[name] = np.packbits(images[split][index].numpy().astype(np.uint8), axis=1)
        held[f"{name}_index"] = index.numpy()
    np.savez_compressed(out / "images.npz", **held)
    (out / "LICENSE-fashion-mnist.txt").write_text(LICENSE, encoding="utf-8")


def make_model(images: dict[str, Tensor], out: Path, epochs: int) -> None:
    """Train, save, read back, and record the ELBOs of what was read back."""
    shape = Architecture()
    model, q = build(shape, SEED)
    settings = Settings(epochs=epochs, seed=SEED, batch_size=BATCH_SIZE, schedule=SCHEDULE, warmup=WARMUP)
    record = fit(model, q, images["train"], settings, progress=lambda epoch: print(epoch, flush=True))
    config = {
        "name": "Fashion-MNIST VAE, 784-200-200-(50 + 50), 50-200-200-784, ELU, Bernoulli logits",
        "command": COMMAND + ("" if epochs == EPOCHS else f" --epochs {epochs}"),
        "data": {
            "name": "fashion-mnist",
            "split": "train",
            "n": len(images["train"]),
            "binarize": "threshold",
        },
        "architecture": asdict(shape),
        "training": settings.to_json() | {"last_epoch_elbo": record[-1].elbo},
        "versions": {"torch": torch.__version__},
    }
    save_model(out, q, model, config)
    model, q, _ = load_model(out)
    save_model(out, q, model, config | {"elbo": {name: evaluate(model, q, x) for name, x in images.items()}})
    print((out / "config.json").read_text())


def evaluate(model: Any, q: Any, x: Tensor) -> dict[str, float]:
    """L[q] on the first images of a split, in nats."""
    estimate = elbo(model, q, x[:N_EVALUATED], n_samples=N_SAMPLES, seed=SEED)
    return {"mean": estimate.mean, "se": estimate.se, "n": N_EVALUATED, "n_samples": N_SAMPLES, "seed": SEED}


if __name__ == "__main__":
    main()
