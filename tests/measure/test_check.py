"""Checks: each planted fault is refused in a line that says what was expected, what came and what to do."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn

from elbowroom.core import normal, seeded
from elbowroom.evidence import CheckError
from elbowroom.measure import check, data_notes
from elbowroom.models import DecoderModel, FunctionModel, likelihoods
from elbowroom.posteriors import Amortized, CouplingFlow, DiagonalGaussian, Local

DOUBLE = torch.empty(0, dtype=torch.float64)
P, D = 8, 3


def noise(*shape: int, key: str) -> Tensor:
    return normal(shape, seeded(0, "test-checks", key), DOUBLE)


def bits(n: int = 40) -> Tensor:
    return (noise(n, P, key="bits") > 0).double()


def network(n_in: int, n_out: int, *last: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Linear(8, n_out), *last).double()


def good() -> tuple[DecoderModel, Amortized, Tensor]:
    return DecoderModel(network(D, P), "bernoulli", D), Amortized(network(P, 2 * D), DiagonalGaussian(D)), bits()


class Answering(nn.Module):
    """A network whose answer is changed on its way out."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.net(x))


def decoder_that(change: Callable[[Tensor], Any], likelihood: Any = "bernoulli") -> DecoderModel:
    return DecoderModel(Answering(network(D, P), change), likelihood, D)


def encoder_that(change: Callable[[Tensor], Any]) -> Amortized:
    return Amortized(Answering(network(P, 2 * D), change), DiagonalGaussian(D))


def function(log_likelihood: Callable[[Tensor, Tensor], Tensor]) -> FunctionModel:
    return FunctionModel(log_likelihood, D)


def squares(x: Tensor, z: Tensor) -> Tensor:
    """Terms (S, N, P) of a log likelihood."""
    return -(x - z.sum(-1, keepdim=True)).square()


def stale() -> DecoderModel:
    """BatchNorm behind features of mean 3 and scale 5 whose running statistics were never updated."""
    net = network(D, P)
    normalized = nn.Sequential(net, Answering(nn.Identity(), lambda h: 3 + 5 * h), nn.BatchNorm1d(P).double())
    return DecoderModel(nn.Sequential(normalized, Answering(nn.Identity(), lambda h: 3 * h)), "bernoulli", D)


def own_batch_statistics() -> DecoderModel:
    return DecoderModel(
        nn.Sequential(network(D, P), nn.BatchNorm1d(P, track_running_stats=False).double()), "bernoulli", D
    )


def batch_mean(h: Tensor) -> Tensor:
    return h - h.mean(0)


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "not summed": (lambda: function(squares), r"must return \(S, N\) = \(2, 8\); got \(2, 8, 8\).*Sum over pixels"),
    "summed over samples": (
        lambda: function(lambda x, z: squares(x, z).sum((0, 2))),
        r"\(S, N\) = \(2, 8\); got \(8,\)",
    ),
    "summed over data": (lambda: function(lambda x, z: squares(x, z).sum((1, 2))), r"\(S, N\) = \(2, 8\); got \(2,\)"),
    "summed over data, not pixels": (
        lambda: function(lambda x, z: squares(x, z).sum(1)),
        r"\(S, N\) = \(4, 1\); got \(4, 8\)",
    ),
    "averaged over data": (
        lambda: function(lambda x, z: squares(x, z).sum(-1).mean(1, keepdim=True).expand(z.shape[:2])),
        "must not depend on its batch",
    ),
    "decoder of another width": (
        lambda: DecoderModel(network(D, P - 1), "bernoulli", D),
        r"x must be shaped like the decoder's output; got x \(8, 8\) and output \(8, 7\)",
    ),
    "one output for all pixels": (lambda: decoder_that(lambda h: h[:, :1]), "x must be shaped like"),
    "decoder of other latents": (lambda: DecoderModel(network(D + 1, P), "bernoulli", D), "log_likelihood failed"),
    "centers its batch": (lambda: decoder_that(batch_mean), "must not depend on its batch.*track its running"),
    "its own batch statistics": (own_batch_statistics, "must not depend on its batch.*track its running"),
    "random in eval mode": (lambda: decoder_that(lambda h: h + torch.randn_like(h)), "deterministic in eval mode"),
    "functional dropout": (
        lambda: decoder_that(lambda h: nn.functional.dropout(h, 0.5, training=True)),
        "deterministic in eval mode.*ropout",
    ),
    "stale statistics": (stale, "between train and eval mode.*stale: pass training batches"),
    "NaN": (lambda: decoder_that(lambda h: h * torch.nan), r"must be finite at draws from N\(0, I\); got 32 of 32"),
    "infinite gradient": (
        lambda: decoder_that(lambda h: h + (h - h.detach()).abs().sqrt()),
        "gradient .*must be finite",
    ),
    "detached": (lambda: decoder_that(lambda h: h.detach()), "must be differentiable in z"),
    "probabilities": (
        lambda: decoder_that(torch.sigmoid),
        'takes logits; every output .*Remove the final sigmoid, or use likelihood "bernoulli_probs"',
    ),
    "logits as probabilities": (lambda: decoder_that(lambda h: 3 * h, "bernoulli_probs"), "must be finite"),
}

POSTERIORS: dict[str, tuple[Callable[[], Any], str]] = {
    "of another width": (lambda: Amortized(network(P, D), DiagonalGaussian(D)), "must emit 6 numbers per datum; got 3"),
    "of other latents": (
        lambda: Amortized(network(P, 2 * D + 2), DiagonalGaussian(D + 1)),
        r"z of shape \(2, 8, 3\) for 2 draws of 8 data with 3 latents; got \(2, 8, 4\)",
    ),
    "not summed": (
        lambda: NotSummed(),
        r"log q of shape \(2, 8\) for 2 draws .* got \(2, 8, 3\): sum over latents",
    ),
    "NaN": (lambda: encoder_that(lambda h: h * torch.nan), "q must give finite z and log q; got"),
    "random in eval mode": (lambda: encoder_that(lambda h: h + torch.rand_like(h)), "q must be deterministic"),
    "centers its batch": (lambda: encoder_that(batch_mean), "q of a datum must not depend on its batch"),
    "no distribution": (lambda: lambda x: x, "must return a torch Distribution"),
    "fails": (
        lambda: Amortized(network(P + 1, 2 * D), DiagonalGaussian(D)),
        "q failed on the first rows of x: RuntimeErr",
    ),
}


class NotSummed:
    """A posterior that leaves its log density per latent."""

    family, noise_size, has_density = None, D, True

    def __call__(self, x: Tensor) -> "NotSummed":
        return self

    def rows(self, index: Tensor) -> "NotSummed":
        return self

    def rsample_and_log_q(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        return eps, -0.5 * eps.square()


@pytest.mark.parametrize("name", MODELS)
def test_a_faulty_model_is_refused(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(CheckError, match=message) as caught:
        check(make(), good()[1], bits())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_faulty_posterior_is_refused(name: str) -> None:
    make, message = POSTERIORS[name]
    with pytest.raises(CheckError, match=message) as caught:
        check(good()[0], make(), bits())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_data_that_are_not_finite_are_refused(bad: float) -> None:
    model, q, x = good()
    x[2, 1] = bad
    with pytest.raises(CheckError, match="x must be finite; got 1 NaN or infinite"):
        check(model, q, x)


def test_a_mapping_without_data_is_refused() -> None:
    model, q, x = good()
    with pytest.raises(CheckError, match='x must hold the data under "x"; got a mapping of pixels'):
        check(model, q, {"pixels": x})


@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_sound_model_passes_without_a_word(n: int) -> None:
    model, q, x = good()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(model, q, x[:n]) == []
        assert check(model, None, x[:n]) == []
        flow = CouplingFlow(D)
        assert check(model, Amortized(network(P, flow.context_size), flow), x[:n]) == []
        assert check(model, lambda v: distributions.Laplace(v[:, :D], 1.0), x[:n]) == []


def test_a_local_posterior_is_checked_on_its_first_rows() -> None:
    model, q, x = good()
    assert check(model, q.localize(x), x) == []
    assert check(model, Local(DiagonalGaussian(D), len(x)), x) == []


def test_dropout_and_current_statistics_are_no_fault() -> None:
    """Train and eval mode may differ by what training adds on purpose."""
    net = nn.Sequential(network(D, P), nn.BatchNorm1d(P).double(), nn.Dropout(0.5))
    for i in range(200):
        net(noise(64, D, key=f"batch{i}"))
    assert check(DecoderModel(net, "bernoulli", D), good()[1], bits()) == []


@pytest.mark.parametrize("kind", ["stale statistics", "sound"])
def test_modes_and_buffers_are_put_back(kind: str) -> None:
    model = (
        stale()
        if kind != "sound"
        else DecoderModel(nn.Sequential(network(D, P), nn.BatchNorm1d(P).double()), "bernoulli", D)
    )
    modules = list(model.modules())
    modules[-1].eval()
    before = [module.training for module in modules]
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    torch.manual_seed(1)
    rng = torch.get_rng_state()
    try:
        check(model, good()[1], bits())
    except CheckError:
        assert kind == "stale statistics"
    assert [module.training for module in modules] == before
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key]), key
    assert torch.equal(torch.get_rng_state(), rng)


# ---- notes


def gray() -> Tensor:
    return (noise(40, P, key="gray").abs() * 80).clamp(max=255).round() / 255


@pytest.mark.parametrize(
    ("likelihood", "x", "note"),
    [
        ("bernoulli", gray(), "gray values under a Bernoulli"),
        (likelihoods.gaussian(1.0), gray(), "continuous density on 8-bit data"),
        ("continuous_bernoulli", gray(), "continuous density on 8-bit data"),
        ("bernoulli", bits(), None),
        (likelihoods.gaussian(1.0), noise(40, P, key="real"), None),
        (likelihoods.gaussian(1.0), (gray() * 255 + noise(40, P, key="u").abs().clamp(max=0.99)) / 256, None),
        (likelihoods.gaussian(1.0), bits(), None),
        (likelihoods.discretized_logistic(1.0), gray(), None),
        (likelihoods.discretized_logistic(1.0), gray() * 255 / 256, "values that are not k / 255"),
    ],
    ids=["gray", "8-bit", "8-bit-cb", "bits", "real", "dequantized", "bits-gaussian", "levels", "gray256"],
)
def test_unusual_data_are_noted_once_and_not_refused(likelihood: Any, x: Tensor, note: str | None) -> None:
    model = DecoderModel(network(D, P), likelihood, D)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        notes = check(model, good()[1], x)
    own = [str(one.message) for one in seen if "torch.jit" not in str(one.message)]
    assert own == notes == data_notes(model, x)
    if note is None:
        assert notes == []
    else:
        assert len(notes) == 1
        assert note in notes[0]


def test_gray_values_under_probabilities_are_noted_too() -> None:
    model = DecoderModel(network(D, P, nn.Sigmoid()), "bernoulli_probs", D)
    with pytest.warns(UserWarning, match="gray values"):
        check(model, good()[1], gray())


def test_pixels_on_another_scale_are_refused() -> None:
    model, x = DecoderModel(network(D, P), likelihoods.discretized_logistic(1.0), D), 255 * gray()
    met = rf"k = 0..255; got values from {x.min():g} to {x.max():g}\. Convert 8-bit images"
    with pytest.raises(CheckError, match=met):
        check(model, good()[1], x)


def test_a_learned_scale_that_was_not_trained_is_noted() -> None:
    """It is 1 then, whatever the data are; a trained one passes without a word."""
    model = DecoderModel(network(D, P), likelihoods.gaussian("learned"), D)
    with pytest.warns(UserWarning, match="exactly 1, as it starts"):
        assert len(check(model, None, noise(40, P, key="real"))) == 1
    scale = model.likelihood.log_scale
    assert isinstance(scale, nn.Parameter)
    with torch.no_grad():
        scale.fill_(-1.0)
    assert check(model, None, noise(40, P, key="real")) == []
