"""The compiled model against the plain one."""

import pytest
import torch
from torch import nn

import elbowroom as er
from elbowroom.core import normal, seeded
from elbowroom.models import CompiledModel, can_sample_prior, log_joint_and_grad, samples_prior


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's compiler
def test_a_compiled_model_gives_the_same_numbers_up_to_rounding() -> None:
    """Value and gradient in double precision, and log p(x) of whole ladders; the user's model is left as it was."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 6)).double()
    model = er.DecoderModel(decoder, "bernoulli", 3)
    fast = CompiledModel(model)
    x = (torch.rand(50, 6, dtype=torch.float64) < 0.5).double()
    z = normal((16, 50, 3), seeded(0), x)
    for plain, quick in zip(log_joint_and_grad(model, x, z), fast.joint_and_grad(x, z), strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)
    fit = er.fit_local(er.FullGaussian(3), model, x)
    runs = [er.ais(made, x, fit, n_temperatures=8).values for made in (model, fast)]
    assert runs[0] == pytest.approx(runs[1], abs=1e-8)
    encoder = er.Amortized(nn.Linear(6, 6).double(), er.DiagonalGaussian(3))
    ladders = [er.decompose(made, encoder, x) for made in (model, fast)]
    assert ladders[1].log_evidence.mean == pytest.approx(ladders[0].log_evidence.mean, abs=0.01)
    assert decoder.training


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's compiler
def test_what_a_compiled_model_hands_on_is_seen() -> None:
    """Optional methods are looked for as attributes: a protocol's isinstance would not see what `__getattr__` gives."""
    model = CompiledModel(er.DecoderModel(torch.nn.Linear(2, 5), "bernoulli", 2))
    assert samples_prior(model)
    assert can_sample_prior(model)
    assert not samples_prior(er.FunctionModel(lambda x, z: z.sum(-1), 2, lambda z, x: z.sum(-1)))
