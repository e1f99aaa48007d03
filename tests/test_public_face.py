"""The public face: every name that a page, a docstring or an error mentions is there, and has a docstring."""

import inspect
import pydoc
import re
from functools import reduce
from pathlib import Path

import pytest
import torch
from torch import nn

import elbowroom as er

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *(path for path in (ROOT / "docs").glob("*.md") if path.name != "log.md")]
TEXTS = [*PAGES, *sorted((ROOT / "src").rglob("*.py"))]
NAME = re.compile(r"(?<![\w./])(?:er|elbowroom)\.([a-z]\w*(?:\.\w+)*|[A-Z]\w*(?:\.\w+)*)")
NO_NAMES = {"py", "cli"}  # files, and the program's own modules


def mentioned() -> list[str]:
    """Dotted names after `er.` or `elbowroom.`, wherever the package speaks of itself."""
    names = {name.rstrip(".") for path in TEXTS for name in NAME.findall(path.read_text(encoding="utf-8"))}
    return sorted(name for name in names if name.split(".")[0] not in NO_NAMES)


@pytest.mark.parametrize("name", mentioned())
def test_a_name_that_is_mentioned_is_there(name: str) -> None:
    reduce(getattr, name.split("."), er)


def test_names_are_mentioned() -> None:
    assert {"decompose", "check", "likelihoods", "training.fit"} <= set(mentioned())


@pytest.mark.parametrize("name", [name for name in dir(er) if not name.startswith("_")])
def test_every_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(er, name)
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing):
        own = [method for key, method in vars(thing).items() if not key.startswith("_") and inspect.isfunction(method)]
        missing = [method.__name__ for method in own if not inspect.getdoc(getattr(thing, method.__name__))]
        assert not missing


def test_the_help_of_the_package_is_two_screens_with_every_name() -> None:
    page = re.sub(".\x08", "", pydoc.render_doc(er))  # a letter, a backspace and the letter again is bold
    assert len(page.splitlines()) <= 80
    words = set(re.findall(r"\w+", page))
    assert not {name for name in dir(er) if not name.startswith("_")} - words


def test_what_users_build_prints_its_sizes() -> None:
    families = (er.DiagonalGaussian(50), er.FullGaussian((2, 3)), er.AuxiliaryFlow(4, hidden=9))
    assert [repr(family) for family in families] == [
        "DiagonalGaussian(50)",
        "FullGaussian((2, 3))",
        "AuxiliaryFlow(4, n_steps=2, hidden=9, n_features=50, scale='exp')",
    ]
    assert repr(er.CouplingFlow(4)).startswith("CouplingFlow(4, n_couplings=4")
    q = er.Amortized(nn.Linear(6, 8), er.DiagonalGaussian(4))
    shown: dict[object, str] = {
        q: "DiagonalGaussian(4), 56 parameters",
        er.Local(er.DiagonalGaussian(4), 3): "DiagonalGaussian(4), 3 data, 24 parameters",
        er.DecoderModel(nn.Linear(4, 6), "bernoulli", 4): "4 latents, prior N(0, I), 30 parameters",
        er.DecoderModel(nn.Linear(4, 6), er.likelihoods.gaussian(0.1), 4): "(likelihood): gaussian(scale 0.1)",
        er.LinearGaussian(torch.ones(6, 2), torch.zeros(6), 0.5): "6 features, 2 latents, scale 0.5",
        er.FunctionModel(lambda x, z: z.sum(-1), 3): "3 latents, prior N(0, I)",
    }
    for thing, words in shown.items():
        assert words in repr(thing)
    assert repr(q(torch.zeros(7, 6))) == "DiagonalGaussian(4), one member for each of 7 data"
