"""README and docs against the package: code runs, commands parse, the table is what is printed, the map is whole."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.cli.app import app
from elbowroom.datasets import demo_images
from elbowroom.evidence import EvidencePlan
from elbowroom.training import demo_model

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "elbowroom"
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README = PAGES["README.md"]
ELSEWHERE = {
    "families.md"
}  # its code registers a family: tests/posteriors/test_new_family.py runs it, and takes it back
SHOWN = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0].strip().strip("`").strip()


@pytest.fixture(autouse=True)
def as_users_have_it() -> None:
    """Single precision, and one thread. `conftest` puts both back."""
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)


def blocks(language: str, page: str = README) -> list[str]:
    """A page's fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


WITH_CODE = [name for name, page in PAGES.items() if blocks("python", page) and name not in {"README.md", *ELSEWHERE}]


def rung_rows(text: str) -> list[tuple[str, str, list[float]]]:
    """(label, side, numbers) of each row of a ladder."""
    rows = re.findall(r"^((?:L\[|  \+ |log p).*?)\s{2,}(>=|<=|~)?\s+(-?\d+\.\d{3}.*)$", text, re.MULTILINE)
    return [(label, side, [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", rest)]) for label, side, rest in rows]


def test_the_code_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks("python")) == 1
    torch.manual_seed(0)
    found: dict[str, object] = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), found)
    assert str(found["gaps"]) in capsys.readouterr().out
    assert isinstance(found["gaps"], er.Gaps)
    assert found["gaps"].amortization.mean > 0


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_goes_on_from_that_of_the_readme(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in [*blocks("python"), *blocks("python", PAGES[name])]:
        exec(compile(block, name, "exec"), names)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)\)", PAGES[name]) if "://" not in target]
    missing = [target for target in targets if not (folder / target).exists()]
    assert not missing


def test_the_commands_parse() -> None:
    commands = [
        line
        for page in PAGES.values()
        for block in blocks("sh", page)
        for line in block.splitlines()
        if line.startswith("elbowroom ")
    ]
    assert len(commands) >= 15
    for line in commands:
        app.parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)


def test_the_ladder_shown_is_the_one_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Header, labels, sides and columns; the numbers are those of a whole demo and are not made again here."""
    families = (er.DiagonalGaussian, er.FullGaussian)
    budgets = {family.name: replace(family.budget, n_steps=5, max_rounds=1) for family in families}
    evidence = EvidencePlan(n_importance=64, n_pilot=32, annealing=None)
    plan = er.Plan(name="standard", n_elbo=16, budgets=budgets, evidence=evidence)
    model, q = demo_model()
    printed = str(er.decompose(model, q, demo_images()["heldout"][:2], plan=plan))
    assert printed.splitlines()[0] in SHOWN.splitlines()
    ours, theirs = rung_rows(printed), rung_rows(SHOWN)
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert len(theirs) == 7
    assert "250 data" in SHOWN
    assert "verdict on heldout" in SHOWN


def test_the_ladder_shown_adds_up() -> None:
    numbers = {label.strip(" +"): row[0] for label, _, row in rung_rows(SHOWN)}
    steps = [numbers[name] for name in ("amortization", "factorization", "gaussianity + remainder")]
    assert numbers["log p(x)"] - numbers["L[q]"] == pytest.approx(sum(steps), abs=0.003)


def test_the_map_names_every_module() -> None:
    """Each file under its own room."""
    lines = re.findall(r"^- `(\w+)/`: ((?:.|\n  )+)$", PAGES["map.md"], re.MULTILINE)
    named = {f"{room}/{file}" for room, text in lines for file in re.findall(r"`(\w+\.py)`", text)}
    modules = {path.relative_to(SRC).as_posix() for path in SRC.glob("*/*.py") if path.name != "__init__.py"}
    assert modules == named


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_measured(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/models.md says, on few data; two steps of the ladder are evident in any trained VAE of this kind."""
    monkeypatch.chdir(tmp_path)
    arguments = ["gaps", "--model", f"{path}:factory", "--n", "20", "--plan", "quick", "--out", "run"]
    assert main(arguments) == 0
    assert "verdict" in capsys.readouterr().out
    for name in ("train", "test"):
        found = er.load_gaps(tmp_path / "run" / name)
        assert found.n_excluded == 0
        assert found.amortization.mean > 3 * found.amortization.mc_se
        assert found.approximation.mean > 3 * found.approximation.mc_se
