"""The public face: every name that a page, a docstring or an error mentions is there, and has a docstring."""

import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

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
