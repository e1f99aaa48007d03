"""A fault is told under the name of the part that has it: the prior, the decoder, the encoder, q or the data."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er

X = (torch.rand(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.5).double()
DECODER, ENCODER = nn.Linear(2, 6).double(), nn.Linear(6, 4).double()
FAMILY = er.DiagonalGaussian(2)
MODEL, Q = er.DecoderModel(DECODER, "bernoulli", 2), er.Amortized(ENCODER, FAMILY)


class Prior:
    """A prior that fails in one of several ways."""

    def __init__(self, index: int) -> None:
        self.index = index

    def log_prob(self, z: Tensor) -> Tensor:
        if self.index < 0:
            raise RuntimeError("a prior's own words")
        return z[..., self.index] if self.index else z.sum((-1, -2))


def with_decoder(decoder: Any, **arguments: Any) -> er.DecoderModel:
    return er.DecoderModel(decoder, "bernoulli", 2, **arguments)


CASES: dict[str, tuple[Any, Any, Any, str]] = {
    "a prior that raises": (with_decoder(DECODER, prior=Prior(-1)), Q, X, "^log_prior failed .*a prior's own words"),
    "a prior of three latents": (with_decoder(DECODER, prior=Prior(2)), Q, X, "^log_prior failed .*index 2 is out of"),
    "a prior of another shape": (with_decoder(DECODER, prior=Prior(0)), Q, X, "^log_prior must return"),
    "a log_prior of z alone": (
        er.FunctionModel(lambda x, z: -z.square().sum(-1), 2, log_prior=lambda z: z.sum(-1)),  # type: ignore[arg-type, misc]
        Q,
        X,
        "^log_prior failed .*takes 1 positional argument but 2 were given",
    ),
    "a mapping without x": (MODEL, Q, {"data": X}, '^x must hold the data under "x"; got a mapping of data'),
    "data with their labels": (MODEL, Q, (X, torch.zeros(20)), "got a tuple of 2.*pass x alone"),
    "a decoder that gives a mapping": (
        with_decoder(lambda z: {"logits": DECODER(z)}),
        Q,
        X,
        "^the decoder must return a tensor .*got a mapping of logits",
    ),
    "a decoder that gives nothing": (with_decoder(lambda z: None), Q, X, "^the decoder must return .*got NoneType"),
    "a decoder that gives two": (with_decoder(lambda z: (DECODER(z),) * 2), Q, X, "one tensor from the decoder"),
    "an encoder that gives a mapping": (
        MODEL,
        er.Amortized(lambda x: {"mean": x, "log_var": x}, FAMILY),
        X,
        "^the encoder .*got a mapping of mean, log_var",
    ),
    "an encoder that gives nothing": (MODEL, er.Amortized(lambda x: None, FAMILY), X, "^the encoder .*got NoneType"),
    "an encoder of other data": (MODEL, er.Amortized(nn.Linear(7, 4).double(), FAMILY), X, "^q failed on the first"),
}


@pytest.mark.parametrize("entry", ["check", "decompose", "elbo"])
@pytest.mark.parametrize("case", CASES)
def test_the_part_that_is_at_fault_is_named(case: str, entry: str) -> None:
    model, q, x, words = CASES[case]
    with pytest.raises((ValueError, TypeError), match=words):
        getattr(er, entry)(model, q, x)
