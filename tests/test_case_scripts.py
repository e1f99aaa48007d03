"""Small scripts that users might bring, each a mistake or an oddity: what comes out of every one, run as it is.

They lie beside the folder that ELBOWROOM_DATA names. A script without a row here fails, so that none is forgotten.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.external
RENAMED = {  # names and arguments that are others here
    'best_elbo(x.double(), "diagonal", k)': "best_elbo(x.double(), kl_weight=k)",
    "from elbowroom.data import load": "from elbowroom.datasets import binarize, mnist",
    'load("mnist", "test", "threshold")': 'binarize(mnist("test", os.environ["ELBOWROOM_DATA"]))',
}


def numbers(pattern: str, text: str) -> list[tuple[float, ...]]:
    """The groups of every match, as numbers."""
    return [tuple(map(float, groups)) for groups in re.findall(pattern, text)]


def refused(*words: str) -> Callable[[str, str], bool]:
    """The script ends in a CheckError that holds the words."""
    return lambda out, err: "CheckError: " in err and all(word in err.splitlines()[-1] for word in words)


def _latents(out: str, _: str) -> bool:
    kinds = [line for line in out.splitlines() if line.startswith("CheckError")]
    words = ("OneHotCategorical", "Bernoulli", "RelaxedOneHotCategorical", "Gamma")
    return len(kinds) == 8 and all(sum(f"gives {word}," in line for line in kinds) == 2 for word in words)


def _beta_four(out: str, _: str) -> bool:
    """Each of the three is within 0.05 nats of its exact value."""
    rows = numbers(r"L\[q\*_b\] (\S+) exact (\S+) .*encoder (\S+) exact (\S+); mismatch (\S+) exact (\S+)", out)
    return len(rows) == 4 and all(abs(row[i] - row[i + 1]) < 0.05 + 0.005 for row in rows for i in (0, 2, 4))


def _own_prior(out: str, _: str) -> bool:
    fitted, exact, width = numbers(r"(-\d\S*) (-\d\S*) (\S+)", out)[0]
    return abs(fitted - exact) < 0.05 and width < 0.1


def _saturated(out: str, _: str) -> bool:
    values = numbers(r"L\[q\] = (\S+) nats \(se \S+, mc ([\d.]+)\)", out)
    return len(values) == 2 and abs(values[0][0] - values[1][0]) < 2 * values[0][1] and "left out" not in out


def _two_modes(out: str, _: str) -> bool:
    rows = numbers(r"mean error (\S+), .* unflagged and low ([\d.]+)%", out)
    return len(rows) == 4 and all(abs(error) < 0.05 and low <= 3 for error, low in rows)


def _shared(out: str, _: str) -> bool:
    """The spread of few seeds and the claimed error, within a factor that chance exceeds once in a thousand."""
    spread, claimed = numbers(r"over seeds (\S+), claimed (\S+)", out)[0]
    return 0.5 < spread / claimed < 1.6


CASES: dict[str, Callable[[str, str], bool]] = {
    "beta_four": _beta_four,
    "data_that_change": refused("two readings of the first rows differ", '"stochastic"'),
    "discrete_latents": _latents,
    "float64_in_a_closure": lambda out, err: "60 converged" in out and "log p(x)" in out,
    "own_prior": _own_prior,
    "pixels_to_255": refused("takes values from 0 to 1; got values from 0 to 255"),
    "saturated_probabilities": _saturated,
    "scale_fitted_to_each_datum": refused("must be a density of x", "A scale that is fitted to each x does this"),
    "shared_prior_draws": _shared,
    "std_taken_for_log_variance": refused("yours is -111.365", "the encoder's second output is a standard deviation"),
    "straight_through": refused("the gradient of log p(x|z) must be that of its values"),
    "teacher_forcing": refused('the decoder reads x itself as "tokens"'),
    "two_modes": _two_modes,
}


@pytest.fixture
def folder(external_data: Path) -> Path:
    """The folder of the scripts."""
    found = external_data.parent / "cases"
    if not found.is_dir():
        pytest.skip(f"no scripts in {found}")
    return found


def test_every_script_has_a_row(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out_is_what_should(name: str, folder: Path, tmp_path: Path) -> None:
    script = (folder / f"{name}.py").read_text()
    for before, after in RENAMED.items():
        script = script.replace(before, after)
    (tmp_path / "case.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, "case.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert CASES[name](ran.stdout, ran.stderr), f"{ran.stdout}\n{ran.stderr}"
