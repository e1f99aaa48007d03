"""Our numbers beside those that others published of their own checkpoints, and beside the paper's: a page of results.

    python -m benchmarks.replications        writes docs/results/replications.md, and prints each row as it is measured

The public checkpoints lie under $ELBOWROOM_DATA. The numbers beside the paper's are read from docs/results/data.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import elbowroom as er
from elbowroom.datasets import binarize, mnist
from elbowroom.results import Estimate
from tests.external import BitsBack, bdmc_mnist, jax_mnist, mnist_images, torch_mnist100

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "results" / "replications.md", ROOT / "docs" / "results" / "data" / "cpu"
N_ELBO, N_OWN = 500, 64  # draws for each image, of best and of amortized q
RECALLED = {  # of the paper's second table: (log p(x), L[q*_FFG], L[q]) of the models trained with q_FFG
    "mnist": (-89.80, -91.23, -92.57),
    "fashion": (-97.47, -100.53, -104.75),
    "cifar": (-816.9, -831.65, -869.12),
}
INTRO = """# Beside the figures of others

What others published of checkpoints of their own, and what we measure of the same weights on the same images, in nats
per image. A best q is fitted by `er.fit_local` with its defaults. Our errors, in brackets, are Monte Carlo errors, as
the images are the same; theirs are not known. Figures marked as ours were not published: they are references that this
project measured before, log p(x) by AIS from a full Gaussian and by IWAE with 20,000 draws, which agree.

"""
ABOUT_THE_PAPER = """
## Beside the paper's

These figures of the paper's second table are recalled and **were not verified against its text**. Its MNIST is of gray
values / 256 under a Bernoulli likelihood, whose numbers are no log probabilities; its models were trained for 3,280
epochs, and measured on the first 1,000 training images (100 of CIFAR-10). So they are a rough compass. Ours are of the
models in `zoo/`, on 250 training images (100 of CIFAR-10) drawn at random, with their standard errors as a sample in
brackets.

"""
Row = tuple[str, str, str, float, Estimate]  # (checkpoint, images, quantity, published, ours)


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="gray values")
    lines = ["| checkpoint | images | quantity | published | ours | difference |", "|---|---|---|--:|--:|--:|"]
    for checkpoint, images, quantity, published, ours in _rows(Path(os.environ["ELBOWROOM_DATA"])):
        apart = f"{ours.mean - published:+.3f}"
        lines.append(
            f"| {checkpoint} | {images} | {quantity} | {published:.3f} | {ours.mean:.3f} ({ours.mc_se:.3f}) | {apart} |"
        )
        print(lines[-1], flush=True)
    PAGE.write_text(page(lines))


def page(lines: Sequence[str]) -> str:
    """The page with this table; what stands beside the paper's only if it was measured."""
    text = INTRO + "\n".join(lines) + "\n"
    if any((RESULTS / f"{data}-ffg").exists() for data in RECALLED):
        text += ABOUT_THE_PAPER + "\n".join(_beside_the_paper()) + "\n"
    return text


def _rows(folder: Path) -> Iterator[Row]:
    yield from _of_jax(folder)
    model, q, own, _ = torch_mnist100(folder)
    name, images = "torch_mnist100_ffg.pt", "its own 100, binary"
    yield name, images, "L[q*_FFG]", -88.466, _best(model, q, own)
    yield name, images, "L[q], ours", -90.59, er.elbo(model, q, own, N_OWN)
    model, q = bdmc_mnist(folder)
    x = mnist_images(folder, "test", 100, 255)
    name, images = "bdmc_mnist.pth", "first 100 test images, gray / 255"
    gaps = er.decompose(model, q, x)
    yield name, images, "L[q], ours", -93.56, gaps.elbo
    yield name, images, "L[q*_FFG], ours", -89.24, gaps.local["diagonal"]
    yield name, images, "L[q*_full], ours", -88.34, gaps.local["full"]
    yield name, images, "log p(x), ours", -88.163, gaps.log_evidence
    plain = er.plain(BitsBack(folder), encode="mean_std", decode="probs")
    bits = binarize(mnist("test", folder))[:200].flatten(1)
    yield "bitsback_mnist.pt", "first 200 test images, binary", "L[q]", -111.365, er.elbo(*plain, bits, N_OWN)


def _of_jax(folder: Path) -> Iterator[Row]:
    model, q = jax_mnist(folder)
    x = mnist_images(folder, "train", 1000, 256)
    name, images = "jax_mnist_ffg.pkl", "first 1,000 training images, gray / 256"
    best = er.fit_local(er.DiagonalGaussian(50), model, x, init=q).q
    yield name, images, "L[q*_FFG]", -90.2832, er.elbo(model, best, x, N_ELBO)
    yield name, images, "IWAE_100 of q*_FFG", -89.1319, er.iwae(model, best, x, 100)
    yield name, images, "L[q], ours", -91.68, er.elbo(model, q, x, N_OWN)
    ten = er.decompose(model, q, x[:10]).log_evidence
    yield name, "first 10 training images, gray / 256", "log p(x), by AIS", -84.48, ten
    tests = mnist_images(folder, "test", 10_000, 256)
    yield name, "all 10,000 test images, gray / 256", "L[q]", -95.270, er.elbo(model, q, tests, N_OWN)


def _best(model: er.DecoderModel, q: er.Amortized, x: torch.Tensor) -> Estimate:
    """L[q*_FFG], with fresh draws."""
    return er.elbo(model, er.fit_local(er.DiagonalGaussian(50), model, x, init=q).q, x, N_ELBO)


def _beside_the_paper() -> Iterator[str]:
    """The paper's figures as they are recalled, and ours of the data sets whose rows are kept."""
    yield "| data | | log p(x) | L[q*_FFG] | L[q] | approximation | amortization |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for data, recalled in RECALLED.items():
        steps = (recalled[0] - recalled[1], recalled[1] - recalled[2])
        yield f"| {data} | recalled | " + " | ".join(f"{value:.2f}" for value in (*recalled, *steps)) + " |"
        place = RESULTS / f"{data}-ffg" / "train"
        if place.exists():
            gaps = er.load_gaps(place)
            values = (
                gaps.log_evidence, gaps.local["diagonal"], gaps.elbo, gaps.approximation, gaps.amortization,
            )  # fmt: skip
            yield f"| {data} | ours | " + " | ".join(f"{value.mean:.2f} ({value.se:.2f})" for value in values) + " |"


if __name__ == "__main__":
    main()
