"""Train the models of zoo/, each by the one command that its config.json repeats; then write zoo/README.md.

    python -m tools.zoo [NAME ...] [--seed 0] [--workers 2] [--into zoo]      all that are missing, where none is named

A model that was begun is gone on with. Each run has one CPU thread: two such runs get more done than one of two. With
--seed 1 a folder's name ends in "-seed-1". Such models are not kept here, only what was measured of them.
"""

import argparse
import json
import sys
from pathlib import Path

from elbowroom.cli.recipes import RECIPES, TRAINED_QUICKLY, train_models
from elbowroom.cli.terminal import UserError, fail

KEPT = [name for name in RECIPES if name not in TRAINED_QUICKLY]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--into", type=Path, default=Path("zoo"))
    arguments = parser.parse_args()
    try:
        train_models(arguments.names or list(RECIPES), arguments.into, seed=arguments.seed, workers=arguments.workers)
    except UserError as error:
        return fail(error)
    finally:
        if arguments.into.is_dir():
            (arguments.into / "README.md").write_text(page(arguments.into))
    return 0


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
    for path in sorted(into / name / "config.json" for name in KEPT if (into / name / "config.json").exists()):
        config = json.loads(path.read_text())
        a, t, e = config["architecture"], config["training"], config.get("test_elbo")
        encoder, decoder = ("-".join(map(str, a[name])) or "linear" for name in ("encoder_hidden", "decoder_hidden"))
        sizes = f"{encoder} - {a['n_latent']} - {decoder}"
        elbo = f"{e['mean']:.2f} ({e['se']:.2f})" if e else ""
        lines.append(
            f"| {path.parent.name} | {sizes} | {a['family']} | {t['epochs_done']} ({t['epoch_kept']}) | {elbo} |"
        )
    absent = [f"`{name}`" for name in RECIPES if name not in KEPT or not (into / name).is_dir()]
    if absent:
        lines += ["", f"Not kept here, for their size: {', '.join(absent)}. `python -m tools.zoo NAME` makes one."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
