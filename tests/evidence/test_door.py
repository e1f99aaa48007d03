"""The door: mistakes that users make get one sentence from every entry point, before anything is computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.evidence import CheckError, check_door

N, P, D = 12, 20, 4


@pytest.fixture
def parts() -> dict[str, Any]:
    """A right model, posterior and data, of untrained networks."""
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(D, P), nn.Linear(P, 2 * D)
    x = torch.bernoulli(torch.full((N, P), 0.4))
    model, q = er.DecoderModel(decoder, "bernoulli", D), er.Amortized(encoder, er.DiagonalGaussian(D))
    return {"model": model, "q": q, "x": x, "decoder": decoder, "encoder": encoder}


def entries(model: Any, q: Any, x: Any, check: bool = True) -> dict[str, Callable[[], object]]:
    """Every entry point that takes a model, a posterior and data, at its cheapest."""
    hasty = er.Budget(n_steps=1, n_samples=2, learning_rate=0.1, max_rounds=1, n_evaluation=2)
    return {
        "check": lambda: er.check(model, q, x),
        "decompose": lambda: er.decompose(model, q, x, plan="quick", check=check),
        "elbo": lambda: er.elbo(model, q, x, n_samples=2, check=check),
        "iwae": lambda: er.iwae(model, q, x, n_samples=2, check=check),
        "fit_local": lambda: er.fit_local(er.DiagonalGaussian(D), model, x, init=q, budget=hasty, check=check),
        "refine": lambda: er.refine(model, q, x, steps=1, check=check),
    }


ENTRIES = ("check", "decompose", "elbo", "iwae", "fit_local", "refine")
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a final sigmoid": (
        lambda p: {"model": er.DecoderModel(nn.Sequential(p["decoder"], nn.Sigmoid()), "bernoulli", D)},
        'likelihood "bernoulli" takes logits; every output of the decoder lies in',
    ),
    "pixels from 0 to 255": (lambda p: {"x": 255 * p["x"]}, "takes values from 0 to 1; got values from 0 to 255"),
    "pixels from 0 to 255 after the first rows": (
        lambda p: {"x": torch.cat([0 * p["x"], 255 * p["x"]])},
        "takes values from 0 to 1; got values from 0 to 255",
    ),
    "8-bit integers": (
        lambda p: {"x": (255 * p["x"]).to(torch.uint8)},
        "got values from 0 to 255",
    ),
    "integers": (lambda p: {"x": p["x"].long()}, r"x holds int64, and networks take floating numbers: x.float\(\)"),
    "an integer array": (lambda p: {"x": p["x"].numpy().astype(np.int32)}, "x holds int32, and networks take"),
    "one datum": (lambda p: {"x": p["x"][0]}, r"a single datum needs a leading axis, x\[None\]"),
    "a decoder for a model": (
        lambda p: {"model": p["decoder"]},
        r"model must have log_prior and log_likelihood; got Linear: er.DecoderModel\(decoder, likelihood,",
    ),
    "swapped model and q": (
        lambda p: {"model": p["q"], "q": p["model"]},
        r"model must have log_prior and log_likelihood; got Amortized.* The order of the arguments is \(model, q, x\)",
    ),
    "the model for q": (lambda p: {"q": p["model"]}, r"q must be a posterior.*got DecoderModel. The order"),
    "data for q": (lambda p: {"q": p["x"]}, "q must be a posterior.*got Tensor. The order"),
    "a q of another size": (
        lambda p: {"q": er.Amortized(nn.Linear(P, 6), er.DiagonalGaussian(3))},
        r"q must give z of shape \(2, 8, 4\) for 2 draws of 8 data with 4 latents; got \(2, 8, 3\)",
    ),
    "an encoder of another size": (
        lambda p: {"q": er.Amortized(nn.Linear(P, 7), er.DiagonalGaussian(D))},
        "must emit 8 numbers per datum; got 7",
    ),
    "data of another width": (lambda p: {"x": p["x"][:, :-1]}, "x must be shaped like the decoder's output"),
    "pixels that are not summed": (
        lambda p: {"model": er.FunctionModel(lambda x, z: z.sum(-1, keepdim=True).expand(*z.shape[:2], 3), D)},
        r"log_likelihood must return \(S, N\) = \(2, 8\); got \(2, 8, 3\). Sum over pixels before returning",
    ),
    "a mapping without x": (
        lambda p: {"x": {"images": p["x"]}},
        r'x must hold the data under "x"; got a mapping of images',
    ),
    "a decoder that fails": (
        lambda p: {"model": er.DecoderModel(nn.Linear(D + 1, P), "bernoulli", D)},
        "log_likelihood failed on the first rows of x: RuntimeError: mat1 and mat2 shapes",
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_sentence(parts: dict[str, Any], mistake: str, entry: str) -> None:
    change, message = MISTAKES[mistake]
    wrong = {key: parts[key] for key in ("model", "q", "x")} | change(parts)
    if entry == "refine" and mistake in ("swapped model and q", "the model for q", "data for q"):
        message = "refine needs a posterior with a known family"
    with pytest.raises(ValueError, match=message) as caught:
        entries(**wrong)[entry]()
    assert len(str(caught.value).splitlines()) == 1


def test_ais_and_the_sandwich_look_at_the_model(parts: dict[str, Any]) -> None:
    model = er.DecoderModel(nn.Sequential(parts["decoder"], nn.Sigmoid()), "bernoulli", D)
    with pytest.raises(CheckError, match="takes logits"):
        er.ais(model, parts["x"], n_temperatures=3)
    with pytest.raises(CheckError, match="takes logits"):
        er.sandwich(model, n=10)


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_right_passes(parts: dict[str, Any], entry: str) -> None:
    entries(parts["model"], parts["q"], parts["x"])[entry]()


def test_whoever_knows_better_leaves_it_out(parts: dict[str, Any]) -> None:
    """Grey values above 1 are no probability of anything, but a number there is."""
    for entry in ("decompose", "elbo", "iwae"):
        entries(parts["model"], parts["q"], 2 * parts["x"], check=False)[entry]()


def test_the_door_changes_no_number_and_no_state(parts: dict[str, Any]) -> None:
    before, model = torch.get_rng_state(), parts["model"].train()
    with_door = er.elbo(model, parts["q"], parts["x"], n_samples=8)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert with_door == er.elbo(model, parts["q"], parts["x"], n_samples=8, check=False)


def test_data_without_a_finite_value_are_the_estimators_to_flag(parts: dict[str, Any]) -> None:
    """The door looks at kinds and shapes; a datum that is not finite is left out and counted later."""
    model = er.FunctionModel(lambda x, z: -(z.square().sum(-1)) + x.sum(-1), D)
    x: Tensor = parts["x"].clone()
    x[0] = torch.nan
    check_door(model, None, x)


def test_a_local_posterior_is_looked_at_row_by_row(parts: dict[str, Any]) -> None:
    local = er.Local(er.DiagonalGaussian(D), N)
    check_door(parts["model"], local, parts["x"])
    with pytest.raises(ValueError, match="a local posterior has a row for each datum"):
        er.elbo(parts["model"], local, parts["x"][:5])
