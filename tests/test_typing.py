"""What a type checker says of code that uses elbowroom: right code passes, and what is misspelled or mixed up is
refused.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SETUP = """
import torch
import elbowroom as er

decoder, encoder = torch.nn.Linear(4, 20), torch.nn.Linear(20, 8)
model = er.DecoderModel(decoder, "bernoulli", 4)
q = er.Amortized(encoder, er.DiagonalGaussian(4))
x = torch.zeros(10, 20)
"""
RIGHT = """
gaps = er.decompose(model, q, x, plan="quick")
er.decompose(model, q, {"x": x, "dose": x[:, 0]}, plan=er.Plan(rungs=("diagonal",)))
er.decompose(model, lambda x: torch.distributions.Normal(x, 1.0), torch.utils.data.TensorDataset(x))
total: float = gaps.factorization.mean + gaps.amortization.se
er.sandwich(model, n=50, q=q, plan="standard").width
er.ais(model, x, base=er.fit_local(er.FullGaussian(4), model, x, init=q))


class Mine:
    latent_shape = (4,)

    def log_prior(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return z.sum(-1)

    def log_likelihood(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return z.sum(-1)


er.elbo(Mine(), q, x, n_samples=10)
"""
WRONG = {
    "a misspelled plan": ('er.decompose(model, q, x, plan="quik")', 'expected "Literal'),
    "a decoder for a model": ("er.decompose(decoder, q, x)", 'expected "LatentModel"'),
    "a misspelled step": ("er.decompose(model, q, x).amortisation", 'has no attribute "amortisation"'),
    "a name that is not there": ("er.decomposed", 'has no attribute "decomposed"'),
    "a model that cannot simulate": ("er.sandwich(Mine())", 'expected "Simulator"'),
    "data for q": ("er.elbo(model, x, x)", "incompatible type"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Line -> what mypy says of it, of one file with all of the above; the cache is that of `make types`."""
    file = tmp_path_factory.mktemp("typing") / "user.py"
    file.write_text(SETUP + RIGHT + "\n".join(line for line, _ in WRONG.values()) + "\n")
    options = ["--cache-dir", str(ROOT / ".mypy_cache"), "--config-file", str(ROOT / "pyproject.toml")]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *options, str(file)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stdout + run.stderr
    errors = [line.removeprefix(str(file)).split(":", 2) for line in run.stdout.splitlines() if ": error:" in line]
    return {int(number): text for _, number, text in errors}


def test_right_code_passes(report: dict[int, str]) -> None:
    last = (SETUP + RIGHT).count("\n")
    assert {line: text for line, text in report.items() if line <= last} == {}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_code_is_refused(report: dict[int, str], case: str) -> None:
    line = (SETUP + RIGHT).count("\n") + 1 + list(WRONG).index(case)
    assert WRONG[case][1] in report.get(line, "nothing")
