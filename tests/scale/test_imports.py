"""Modules that a program of elbowroom imports are not searched for garbage; what comes after them is."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from elbowroom.cli import main
from elbowroom.scale import quick_imports

N_OBJECTS = 50_000  # torch alone makes several times as many


class Ring:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    gc.unfreeze()  # to collect tests imports `cli.fork_server`, which freezes
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_left_as_it_was(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    with suppress(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == was_on


def test_what_is_made_later_is_collected() -> None:
    with quick_imports():
        early = Ring()
    assert gc.get_freeze_count() > 0
    gc.collect()
    late = Ring()
    refs = [weakref.ref(early), weakref.ref(late)]
    del early, late
    gc.collect()
    assert [ref() is not None for ref in refs] == [True, False]


def test_a_call_from_python_freezes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert gc.get_freeze_count() == 0


def test_a_program_does() -> None:
    code = (
        "import gc, json, sys; from elbowroom.cli import main\n"
        "sys.argv[1:] = ['data']\n"
        "code = main(); print(json.dumps([code, gc.get_freeze_count(), gc.isenabled()]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, n_frozen, is_on = json.loads(ran.stdout.splitlines()[-1])
    assert exit_code == 0
    assert is_on
    assert n_frozen > N_OBJECTS
