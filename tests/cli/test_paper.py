"""`elbowroom paper`: lists, refuses, and makes pages from rows that are kept."""

import sys
from pathlib import Path

import pytest

from elbowroom.cli import main
from elbowroom.experiments import EXPERIMENTS

from ..experiments.test_experiments import Stand


@pytest.fixture
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of two experiments, as a measurement keeps them."""
    folder = tmp_path_factory.mktemp("rows")
    for model in {*EXPERIMENTS["decoder-size"].models, *EXPERIMENTS["flow-amortization"].models}:
        for name, gaps in Stand().gaps(model).items():
            gaps.save(folder / "quick" / model / name)
    return folder


def test_the_list_has_a_line_for_each_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == main(["paper", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(EXPERIMENTS)
    assert all(any(name in line for line in lines) for name in EXPERIMENTS)


def test_pages_and_figures_are_made_from_rows(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("decoder-size", "flow-amortization"):
        assert main(["paper", name, "--rows", str(rows), "--out", str(tmp_path)]) == 0
        page = (tmp_path / f"{name}.md").read_text()
        assert f"`elbowroom paper {name} --scale quick`" in page
        assert "- time:" not in page  # nothing was measured
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    out = capsys.readouterr().out
    assert out.count("standard errors") == 3  # a line for each claim


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decoder-sizes"], "expected list, all, claims or one of gaps"),
        (["decoder-size", "--zoo", "nowhere"], "there is no such model. Name the folder of the models with --zoo"),
        (["decoder-size", "--rows", "nowhere"], "does not exist"),
        (["claims", "--out", "nowhere"], "does not exist"),
    ],
)
def test_what_is_not_there_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_command_says_what_to_install(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["paper", "decoder-size", "--rows", str(rows)]) == 2
    assert "pip install elbowroom[paper]" in capsys.readouterr().err
