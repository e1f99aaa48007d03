"""What a run says of itself: enough to tell it from another one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import elbowroom as er


def parts(shift: float = 0.0) -> tuple[er.DecoderModel, er.Amortized, torch.Tensor]:
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(2, 6), nn.Linear(6, 4)
    with torch.no_grad():
        decoder.weight += shift
    model, q = er.DecoderModel(decoder, "bernoulli", 2), er.Amortized(encoder, er.DiagonalGaussian(2))
    return model, q, torch.bernoulli(torch.full((8, 6), 0.5))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model, q, x = parts()
    gaps = er.decompose(model, q, x, plan="quick", seed=3, objective="free bits")
    folder = tmp_path_factory.mktemp("runs") / "run"
    gaps.save(folder)
    assert er.load_gaps(folder).provenance == json.loads(json.dumps(gaps.provenance))
    return json.loads((folder / "run.json").read_text())


def test_a_run_says_what_was_measured_and_how(record: dict[str, Any]) -> None:
    told = record["provenance"]
    model = told["model"]
    assert (model["class"], model["likelihood"], model["latents"]) == ("DecoderModel", "bernoulli", 2)
    assert (told["posterior"]["class"], told["posterior"]["family"]) == ("Amortized", "diagonal")
    assert (told["data"]["n"], told["data"]["shapes"]) == (8, {"x": [8, 6]})
    assert told["arguments"] == {"seed": 3, "kl_weight": 1.0, "objective": "free bits", "refine_on": None}
    (plan,) = told["plans"]
    assert plan["evidence"]["n_importance"] == 1000
    assert told["seconds"] > 0
    assert {"elbowroom", "python", "torch", "numpy"} <= set(record["versions"])


def test_hashes_follow_numbers_and_nothing_else() -> None:
    def told(shift: float = 0.0, flip: bool = False) -> dict[str, Any]:
        model, q, x = parts(shift)
        return dict(er.decompose(model, q, 1 - x if flip else x, plan="quick").provenance)

    same, weights, data = told(), told(0.1), told(flip=True)
    assert same["model"] == told()["model"]
    assert weights["model"]["weights"] != same["model"]["weights"]
    assert weights["posterior"] == same["posterior"]
    assert data["data"]["sha256"] != same["data"]["sha256"]
    assert data["model"] == same["model"]


def test_what_has_no_networks_or_rows_in_memory_has_no_hash(tmp_path: Path) -> None:
    class Data(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.full((2,), float(i))

    model = er.FunctionModel(lambda x, z: -(z - x).square().sum(-1), 2)
    told = er.decompose(
        model, lambda x: torch.distributions.Independent(torch.distributions.Normal(x, 1.0), 1), Data(), plan="quick"
    ).provenance
    assert told["model"]["weights"] is None
    assert told["data"] == {"n": 5, "shapes": None, "sha256": None}


def test_settings_in_numbers_of_numpy_are_written_as_any_others(tmp_path: Path) -> None:
    model, q, x = parts()
    few: Any = np.int64(100)
    plan = er.Plan(rungs=("diagonal",), n_elbo=few, evidence=er.EvidencePlan(n_importance=few, annealing=None))
    gaps = er.decompose(model, q, x, plan=plan, seed=np.int64(3), kl_weight=np.float32(0.5))  # type: ignore[arg-type]
    gaps.save(tmp_path / "run")
    told = er.load_gaps(tmp_path / "run").provenance
    assert (told["arguments"]["seed"], told["arguments"]["kl_weight"]) == (3, 0.5)
    assert told["plans"][0]["evidence"]["n_importance"] == 100


def test_a_module_may_keep_more_than_tensors(tmp_path: Path) -> None:
    class Remembering(nn.Linear):
        def get_extra_state(self) -> object:
            return {"epochs": 3}

        def set_extra_state(self, state: object) -> None:
            pass

    model = er.DecoderModel(Remembering(2, 6), "bernoulli", 2)
    q = er.Amortized(nn.Linear(6, 4), er.DiagonalGaussian(2))
    gaps = er.decompose(model, q, torch.bernoulli(torch.full((8, 6), 0.5)), plan="quick")
    assert gaps.provenance["model"]["weights"]


def test_how_long_a_run_took_does_not_tell_it_apart() -> None:
    model, q, x = parts()
    gaps = er.decompose(model, q, x, plan="quick", seed=1)
    slower = replace(gaps, provenance={**gaps.provenance, "seconds": 1 + gaps.provenance["seconds"]})
    assert slower == gaps
    assert replace(gaps, seed=2) != gaps


def test_the_plans_told_are_those_that_measured() -> None:
    model, q, x = parts()
    once, all_refined = (
        er.decompose(model, q, x, plan="quick", refine_on=n, refine_plan="standard").provenance for n in (4, 8)
    )
    assert [plan["name"] for plan in once["plans"]] == ["quick", "standard"]
    assert once["arguments"]["refine_on"] == 4
    assert [plan["name"] for plan in all_refined["plans"]] == ["standard"]  # all data: the costly plan alone
