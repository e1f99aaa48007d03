"""Adapters that are registered: recognized by the library of a model, and asked to read its folders."""

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import elbowroom as er
from elbowroom.cli.model_spec import open_model
from elbowroom.cli.terminal import UserError
from elbowroom.core import plugins

MODEL = er.DecoderModel(nn.Linear(2, 3), "bernoulli", 2)
Q = er.Amortized(nn.Linear(3, 4), er.DiagonalGaussian(2))
FOO = er.adapters.Adapter(load=lambda folder: (MODEL, Q, {"test": torch.zeros(4, 3)}))
BROKEN = "no adapter"


@pytest.fixture
def foo(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter of a package of somebody else's, for the library foo."""
    group = plugins.ENTRY_POINTS
    points = [
        EntryPoint("foo", f"{__name__}:FOO", group),
        EntryPoint("bar", f"{__name__}:BROKEN", group),
        *plugins.installed_adapters().values(),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)


def of_library(name: str) -> Any:
    """An instance of a class that a library defines."""
    return type("Model", (nn.Module,), {"__module__": f"{name}.models.vae"})()


@pytest.mark.parametrize("place", ["check", "decompose"])
@pytest.mark.parametrize(
    ("library", "words"), [("pythae", r"er\.pythae\(model\)"), ("scvi", r"er\.scvi\(model\)"), ("foo", r"\.foo\(model")]
)
def test_a_foreign_model_is_recognized_and_its_adapter_named(foo: None, place: str, library: str, words: str) -> None:
    enter: Any = er.check if place == "check" else er.decompose
    with pytest.raises(er.CheckError, match=f"got Model: .*{words}"):
        enter(of_library(library), Q, torch.zeros(4, 3))


def test_a_pair_of_pyro_is_recognized_by_its_methods() -> None:
    pair: Any = SimpleNamespace(model=len, guide=len)
    with pytest.raises(er.CheckError, match=r"er\.pyro\(net\.model, net\.guide, x\)"):
        er.check(pair, None, torch.zeros(4, 3))


def test_a_folder_is_read_by_the_adapter_of_its_library(foo: None, tmp_path: Path) -> None:
    loaded = open_model(f"foo:{tmp_path}")
    assert loaded.model is MODEL
    assert set(loaded.sets) == {"test"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bar", "the adapter bar must be an .*Adapter; got str"),
        ("pyro", "a model of Pyro is a function"),
        ("scvi", r"must hold adata\.h5ad"),
        ("nothing", "no adapter, which are bar, foo, pyro, pythae, scvi"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_in_one_line(foo: None, tmp_path: Path, spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_model(f"{spec}:{tmp_path}")


def test_pickled_networks_of_pythae_are_refused(tmp_path: Path) -> None:
    (tmp_path / "decoder.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"decoder\.pkl can run code"):
        open_model(f"pythae:{tmp_path}")
