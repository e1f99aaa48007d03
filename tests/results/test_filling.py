"""Many processes fill one folder: no block is lost, and none measured twice but for those of killed processes."""

from pathlib import Path

import pytest
import torch

import elbowroom as er
from benchmarks.scale import simulation
from elbowroom.results import Filling, Gaps, Parts, Presence


@pytest.mark.parametrize(
    ("n_blocks", "n_processes", "n_kills"), [(300, 6, 2), pytest.param(2000, 20, 5, marks=pytest.mark.slow)]
)
def test_no_block_is_lost_or_measured_twice_beyond_those_of_killed_processes(
    n_blocks: int, n_processes: int, n_kills: int
) -> None:
    found = simulation(n_blocks, 0.01, n_processes, n_kills)
    assert found["lost"] == 0
    assert found["repeated"] <= n_kills


def block_of(n: int) -> Gaps:
    weight = torch.ones(3, 4, dtype=torch.float64) * torch.arange(1, 5)
    model = er.LinearGaussian(weight, torch.zeros(3, dtype=torch.float64), 1.0)
    plan = er.Plan(rungs=("diagonal",), n_elbo=8, evidence=er.EvidencePlan(n_importance=64, annealing=None))
    q = er.Amortized(torch.nn.Linear(3, 8, dtype=torch.float64), er.DiagonalGaussian(4))
    return er.decompose(model, q, torch.ones(n, 3, dtype=torch.float64), plan, progress=False)


def test_a_block_that_was_written_since_the_last_look_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process wrote it and left, so that its claim seems to be that of a dead one."""
    gaps, measured = block_of(5), []
    with Presence(tmp_path) as presence:
        parts = Parts(tmp_path / "parts", {}, {}, 2, presence)
        filling = Filling(parts, {0: 5, 1: 5})
        real = parts.claim

        def late(number: int, take_over: bool = False) -> bool:
            if number == 1 and not take_over:  # another process has claimed it, and finishes it now
                (tmp_path / "parts/claims/000001-0").write_text("gone.json")
                parts.save(1, gaps)
            return real(number, take_over)

        monkeypatch.setattr(parts, "claim", late)
        monkeypatch.setattr(filling, "missing", iter([[0, 1], [1], [1], []]).__next__)

        def measure(number: int) -> Gaps:
            measured.append(number)
            return gaps

        filling.fill(measure, lambda done: None)
    assert measured == [0]
    assert parts.rows_kept() == {0: 5, 1: 5}
