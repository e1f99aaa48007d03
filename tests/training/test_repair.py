"""Repair: a planted fault of the encoder comes back, and only that."""

import pytest
import torch
from torch import Tensor, nn

from elbowroom.core import normal, seeded
from elbowroom.models import DecoderModel, LinearGaussian
from elbowroom.models.likelihoods import gaussian
from elbowroom.posteriors import Amortized, DiagonalGaussian
from elbowroom.training import Settings, repair

from ..statistics import assert_close_z

SETTINGS = Settings(epochs=60, batch_size=50, learning_rate=0.02, schedule="cosine")


@pytest.fixture
def model() -> LinearGaussian:
    generator = seeded(0, "repair model")
    like = torch.zeros(())
    return LinearGaussian(normal((6, 3), generator, like), normal((6,), generator, like), 0.7)


def drawn(model: LinearGaussian, n: int, key: str) -> Tensor:
    generator = seeded(0, key)
    z = normal((n, 3), generator, model.bias)
    return z @ model.weight.T + model.bias + model.scale * normal((n, 6), generator, model.bias)


def encoder(model: LinearGaussian, shift: float = 0.0) -> Amortized:
    """The best diagonal Gaussian of each datum, its mean off by `shift`."""
    net = nn.Linear(6, 6)
    gain = torch.linalg.solve(model.precision(), model.weight.T) / model.scale**2
    with torch.no_grad():
        net.weight.zero_()[:3] = gain
        net.bias[:3] = shift - gain @ model.bias
        net.bias[3:] = -model.precision().diagonal().log()
    return Amortized(net, DiagonalGaussian(3))


def test_what_was_planted_comes_back(model: LinearGaussian) -> None:
    """Amortization and what is recovered, against the closed form; the decoder and the old q stay as they were."""
    train, heldout = drawn(model, 1000, "train"), drawn(model, 300, "heldout")
    old = encoder(model, shift=0.6)
    new = Amortized(nn.Linear(6, 6), DiagonalGaussian(3))
    new.load_state_dict(old.state_dict())
    before = [value.clone() for value in (*old.state_dict().values(), *model.state_dict().values())]
    found = repair(model, old, new, train, heldout, SETTINGS, n=200)
    delta = torch.full((3,), 0.6)
    planted = 0.5 * (delta @ model.precision() @ delta).item()  # KL between Gaussians of one covariance
    for gaps in found.before.values():
        assert abs(gaps.amortization.mean - planted) < 0.02 + 5 * gaps.amortization.mc_se
    assert abs(found.capacity[0] - planted) < 0.02 + 5 * found.capacity[1]
    assert_close_z(found.recovered["heldout"].mean, planted, found.recovered["heldout"].mc_se + 0.004)
    assert found.share > 0.95
    assert f"{found.share:.0%} of that part" in str(found)
    after = (*old.state_dict().values(), *model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_decoder_with_parameters_is_frozen_and_given_back(model: LinearGaussian) -> None:
    decoder = nn.Linear(3, 6)
    with torch.no_grad():
        decoder.weight.copy_(model.weight)
        decoder.bias.copy_(model.bias)
    trainable = DecoderModel(decoder, gaussian(scale=model.scale), 3)
    old, new = encoder(model, shift=0.6), encoder(model, shift=0.6)
    repair(trainable, old, new, drawn(model, 100, "train"), drawn(model, 50, "heldout"), Settings(epochs=2), n=20)
    assert not torch.equal(new.state_dict()["net.bias"], old.state_dict()["net.bias"])
    assert torch.equal(decoder.weight, model.weight)
    assert torch.equal(decoder.bias, model.bias)
    assert all(p.requires_grad and p.grad is None for p in decoder.parameters())


def test_an_encoder_that_is_as_good_as_can_be_has_nothing_to_recover(model: LinearGaussian) -> None:
    q, new = encoder(model), encoder(model)
    train, heldout = drawn(model, 500, "train"), drawn(model, 200, "heldout")
    found = repair(model, q, new, train, heldout, Settings(epochs=3, learning_rate=1e-4), n=200)
    assert abs(found.recovered["heldout"].mean) < 0.05
    assert "nothing for a new encoder to recover" in str(found)


def test_generalization_is_not_counted_as_capacity(model: LinearGaussian) -> None:
    """An encoder that is right on training data, and off on all others, lacks no capacity."""
    train, heldout = drawn(model, 500, "train"), drawn(model, 200, "heldout")
    good, off = encoder(model), encoder(model, shift=0.6)

    class Remembering(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            known = (x[:, None] == train).all(-1).any(-1, keepdim=True)
            return torch.where(known, good.net(x), off.net(x))

    q = Amortized(Remembering(), DiagonalGaussian(3))
    found = repair(model, q, encoder(model), train, heldout, Settings(epochs=1, learning_rate=1e-5), n=200)
    assert found.before["heldout"].amortization.mean > 0.3
    assert found.capacity[0] < 0.02
    assert "nothing for a new encoder to recover" in str(found)


def test_the_models_gradients_are_as_found_when_training_fails(model: LinearGaussian) -> None:
    decoder = nn.Linear(3, 6)
    from elbowroom.models import DecoderModel

    mixed = DecoderModel(decoder, "bernoulli", 3)
    decoder.bias.requires_grad_(False)
    x = (drawn(model, 60, "train") > 0).to(torch.get_default_dtype())
    q = encoder(model)
    with pytest.raises(FloatingPointError):
        repair(mixed, q, encoder(model), x, x, Settings(epochs=1, schedule=lambda epoch, epochs: float("inf")), n=20)
    assert decoder.weight.requires_grad
    assert not decoder.bias.requires_grad


def test_a_q_without_a_family_is_refused(model: LinearGaussian) -> None:
    def q(x: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Laplace(torch.zeros(len(x), 3), 1.0)

    x = drawn(model, 60, "train")
    with pytest.raises(TypeError, match="repair needs a q whose family is known"):
        repair(model, q, encoder(model), x, x, SETTINGS, n=20)
