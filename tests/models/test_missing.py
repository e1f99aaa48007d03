"""Numbers that are missing: masked, marked as NaN, or padded, they have no part in log p(x|z)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import elbowroom as er

P, D, N = 6, 2, 40


def data() -> dict[str, Tensor]:
    """Numbers (N, P), a third of which are missing and NaN, and their mask."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, P, generator=g, dtype=torch.float64)
    mask = torch.rand(N, P, generator=g) > 1 / 3
    return {"x": torch.where(mask, x, torch.nan), "mask": mask.double()}


class Encoder(nn.Module):
    """An encoder that reads zero for what is missing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(P, 2 * D).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.nan_to_num())


def parts(**arguments: Any) -> tuple[Any, Any]:
    torch.manual_seed(2)
    decoder = nn.Linear(D, P).double()
    return (
        er.DecoderModel(decoder, er.likelihoods.gaussian(0.5), D, **arguments),
        er.Amortized(Encoder(), er.DiagonalGaussian(D)),
    )


def test_what_is_masked_has_no_part_in_any_number() -> None:
    model, q = parts(mask="mask")
    x = data()
    z = torch.randn(3, N, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    terms = Normal(model.decoder(z), 0.5).log_prob(x["x"].nan_to_num())
    expected = (terms * x["mask"]).sum(-1)
    assert torch.allclose(model.log_likelihood(x, z), expected)
    assert er.check(model, q, x) == []
    gaps = er.decompose(model, q, x)
    assert gaps.n_excluded == 0
    other = {**x, "x": torch.where(x["mask"].bool(), x["x"], torch.nan)}
    assert er.decompose(model, q, other).log_evidence.mean == gaps.log_evidence.mean


def test_a_masked_linear_model_has_its_exact_evidence() -> None:
    """log p of the observed numbers is that of their marginal normal; 5 errors are allowed (false alarms 1e-6)."""
    model, q = parts(mask="mask")
    x = data()
    weight, bias = model.decoder.weight.detach(), model.decoder.bias.detach()
    covariance = weight @ weight.T + 0.25 * torch.eye(P, dtype=torch.float64)
    found = er.decompose(model, q, x).log_evidence
    for i in range(N):
        seen = x["mask"][i].bool()
        if not seen.any():
            continue
        normal = torch.distributions.MultivariateNormal(bias[seen], covariance[seen][:, seen])
        assert abs(found.values[i] - normal.log_prob(x["x"][i][seen]).item()) < 5 * found.mc_errors[i] + 0.02


def test_simulated_data_miss_the_same_numbers() -> None:
    model, q = parts(mask="mask")
    x = data()
    drawn: Any = model.sample_data(torch.zeros(N, D, dtype=torch.float64), x, torch.Generator().manual_seed(4))
    assert torch.equal(drawn["x"].isnan(), x["x"].isnan())
    assert er.sandwich(model, 20, q=q, like=x).width.mean < 0.1


def test_nan_is_allowed_if_it_is_said() -> None:
    def likelihood(x: Tensor, mean: Tensor) -> Tensor:
        return torch.where(x.isnan(), 0.0, Normal(mean, 0.5, validate_args=False).log_prob(x.nan_to_num())).sum(-1)

    x = data()["x"]
    torch.manual_seed(2)
    model = er.DecoderModel(nn.Linear(D, P).double(), likelihood, D)
    q = er.Amortized(Encoder(), er.DiagonalGaussian(D))
    with pytest.raises(er.CheckError, match=r"x must be finite; got .*mask=.*missing=True"):
        er.check(model, q, x)
    with pytest.warns(UserWarning, match="not verified to be a density"):
        er.check(model, q, x, missing=True)
    x[0, 0] = torch.inf
    with pytest.raises(er.CheckError, match="got 1 NaN or infinite"):
        er.check(model, q, x, missing=True)


def test_padding_is_ignored() -> None:
    torch.manual_seed(5)
    net = nn.Linear(D, 4 * 3).double()
    model = er.DecoderModel(lambda z: net(z).reshape(-1, 4, 3), er.likelihoods.categorical(ignore_index=-100), D)
    x = torch.randint(3, (N, 4), generator=torch.Generator().manual_seed(6))
    x[:, 2:] = torch.where(torch.arange(N)[:, None] % 2 == 0, -100, x[:, 2:])
    z = torch.randn(2, N, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    terms = Categorical(logits=net(z).reshape(2, N, 4, 3)).log_prob(x.clamp(min=0))
    assert torch.allclose(model.log_likelihood(x, z), (terms * (x >= 0)).sum(-1))
    q = er.Amortized(lambda x: x.double()[:, :4], er.DiagonalGaussian(D))
    assert er.decompose(model, q, x, plan="quick").n_excluded == 0


@pytest.mark.parametrize("name", ["bernoulli", "bernoulli_probs"])
def test_masked_bits_are_scored_as_those_that_are_seen(name: str) -> None:
    torch.manual_seed(8)
    net = nn.Sequential(nn.Linear(D, P), *([nn.Sigmoid()] if name == "bernoulli_probs" else [])).double()
    x = {"x": torch.ones(N, P, dtype=torch.float64), "mask": torch.zeros(N, P)}
    x["mask"][:, :2] = 1
    z = torch.randn(4, N, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    logits = net[0](z)
    expected = nn.functional.logsigmoid(logits[..., :2]).sum(-1)
    assert torch.allclose(er.DecoderModel(net, name, D, mask="mask").log_likelihood(x, z), expected)


@pytest.mark.parametrize(
    ("mask", "words"), [(torch.ones(N, 1), r"mask must be shaped as the data, \(8, 6\); got \(8, 1\)")]
)
def test_a_mask_of_another_shape_is_refused(mask: Tensor, words: str) -> None:
    model, q = parts(mask="mask")
    with pytest.raises(er.CheckError, match=words):
        er.check(model, q, {"x": data()["x"].nan_to_num(), "mask": mask})


def test_a_mask_that_is_not_there_is_named() -> None:
    model, q = parts(mask="mask")
    with pytest.raises(er.CheckError, match=r"needs them in x; got \['x'\], without \['mask'\]"):
        er.check(model, q, {"x": data()["x"].nan_to_num()})
