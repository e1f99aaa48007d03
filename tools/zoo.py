"""Train the models of zoo/, each by the one command that its config.json repeats; then write zoo/README.md.

    python -m tools.zoo [NAME ...] [--seed 0] [--workers 2] [--into zoo]      all that are missing, where none is named

A model that was begun is gone on with. Each run has one CPU thread: two such runs get more done than one of two. With
--seed 1 a folder's name ends in "-seed-1". Such models are not kept here, only what was measured of them.
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG = "--half --threads 1 --epochs 400"
LONGER = "--half --threads 1 --epochs 600"  # where 400 are not enough
SHORT = "--half --threads 1 --epochs 150"
BRIEF = f"fashion-mnist {SHORT}"
FROZEN = f"{BRIEF} --encoder linear --frozen zoo/fashion-ffg"
ENCODER = f"{BRIEF} --frozen zoo/fashion-ffg"
CIFAR = "cifar10 --half --threads 1 --networks conv --heldout 5000 --epochs 20 --compile"
AUXILIARY = "--family auxiliary --compile --clip-norm 150"
RECIPES = {
    "fashion-ffg": f"fashion-mnist {LONGER}",
    "fashion-af": f"fashion-mnist {LONGER} {AUXILIARY}",
    "mnist-gray256-ffg": f"mnist {LONG} --binarize gray256 --heldout 5000 --patience 400",
    "mnist-ffg": f"mnist {LONG}",
    "mnist-af": f"mnist {LONG} {AUXILIARY}",
    "fashion-brief": BRIEF,  # what the others of 150 epochs are compared with
    "fashion-brief-af": f"{BRIEF} {AUXILIARY}",
    "fashion-large-encoder": f"{BRIEF} --encoder 500-500",
    "fashion-no-annealing": f"{BRIEF} --annealing none",
    "fashion-no-annealing-af": f"{BRIEF} --annealing none {AUXILIARY}",
    "fashion-decoder-0": f"{BRIEF} --decoder linear",
    "fashion-decoder-4": f"{BRIEF} --decoder 200-200-200-200",
    "mnist-2d": f"mnist {SHORT} --latents 2",
    "fashion-linear-ffg": FROZEN,
    "fashion-linear-flow": f"{FROZEN} --family flow",
    "fashion-linear-af": f"{FROZEN} --family auxiliary --clip-norm 150",
    "fashion-encoder-diagonal": ENCODER,  # these three have 217,300 parameters, or within 600 of them
    "fashion-encoder-full": f"{ENCODER} --encoder 98-98 --family full",
    "fashion-encoder-flow": f"{ENCODER} --encoder 184-184 --family flow",
    **{  # as many steps as with all 60,000 images
        f"fashion-data-{n}": ENCODER.replace("--epochs 150", f"--epochs {150 * 60_000 // n} --n {n}")
        for n in (1_000, 4_000, 15_000)
    },
    "cifar-ffg": CIFAR,
    "cifar-af": f"{CIFAR} --family auxiliary --clip-norm 150",
    "cifar-wide-encoder": f"{CIFAR} --encoder 128-256-512",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--into", type=Path, default=Path("zoo"))
    arguments = parser.parse_args()
    names = arguments.names or [
        n for n in RECIPES if not (arguments.into / folder_of(n, arguments.seed) / "model.safetensors").exists()
    ]
    with ThreadPoolExecutor(arguments.workers) as pool:
        codes = list(pool.map(lambda name: train(name, arguments.into, arguments.seed), names))
    if arguments.into.is_dir():
        (arguments.into / "README.md").write_text(page(arguments.into))
    return max(codes, default=0)


def train(name: str, into: Path, seed: int = 0) -> int:
    """One run, whose words are shown when it has ended."""
    more = ["--seed", str(seed)] if seed else []
    words = ["-m", "elbowroom", "train", *shlex.split(RECIPES[name]), *more, "--out", str(into / folder_of(name, seed))]
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    print(f"{name}: exit {run.returncode}\n{run.stdout}{run.stderr}", flush=True)
    return run.returncode


def folder_of(name: str, seed: int) -> str:
    return f"{name}-seed-{seed}" if seed else name


def page(into: Path) -> str:
    """A table of what is there."""
    lines = [
        "# Trained models",
        "",
        "Each folder holds the weights, the log of its training, and in `config.json` the command that makes it again.",
        "Measure one with `elbowroom gaps --model zoo/NAME --n 250`. ELBOs are of the 10,000 test images, in nats,",
        "with their standard error as a sample; those of gray images are not comparable with the others.",
        "",
        "| model | encoder - latents - decoder | q | epochs (kept) | test ELBO |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for path in sorted(into / name / "config.json" for name in RECIPES if (into / name / "config.json").exists()):
        config = json.loads(path.read_text())
        a, t, e = config["architecture"], config["training"], config.get("test_elbo")
        encoder, decoder = ("-".join(map(str, a[name])) or "linear" for name in ("encoder_hidden", "decoder_hidden"))
        sizes = f"{encoder} - {a['n_latent']} - {decoder}"
        elbo = f"{e['mean']:.2f} ({e['se']:.2f})" if e else ""
        lines.append(
            f"| {path.parent.name} | {sizes} | {a['family']} | {t['epochs_done']} ({t['epoch_kept']}) | {elbo} |"
        )
    absent = [f"`{name}`" for name in RECIPES if not (into / name).is_dir()]
    if absent:
        lines += ["", f"Not kept here, for their size: {', '.join(absent)}. `python -m tools.zoo NAME` makes one."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
