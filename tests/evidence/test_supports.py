"""What the door refuses: latents that are no real numbers, data that change; and probabilities scored by logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.distributions import Independent
from torch.utils.data import Dataset

import elbowroom as er
from elbowroom.evidence import CheckError, elbo
from elbowroom.models import CompiledModel, DecoderModel, log_joint_and_grad
from elbowroom.posteriors import Amortized, DiagonalGaussian

P, D, N = 12, 4, 30


def linear(n_in: int, n_out: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(n_in, n_out)


MODEL = DecoderModel(linear(D, P), "bernoulli", D)
ENCODER = linear(P, D)
X = (torch.rand(N, P, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def on_a_sphere(x: Tensor) -> distributions.Distribution:
    """A hyperspherical posterior that says nothing of its support."""

    class Sphere(distributions.Distribution):
        def __init__(self, mean: Tensor) -> None:
            super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)
            self.mean_direction = mean

        def sample(self, shape: Any = ()) -> Tensor:
            z = self.mean_direction + torch.randn(*shape, *self.mean_direction.shape)
            return z / z.norm(dim=-1, keepdim=True)

        def log_prob(self, z: Tensor) -> Tensor:
            return (z * self.mean_direction).sum(-1)

    return Sphere(ENCODER(x))


POSTERIORS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one-hot": (lambda x: distributions.OneHotCategorical(logits=ENCODER(x)), "OneHotCategorical.*discrete"),
    "Bernoulli": (lambda x: Independent(distributions.Bernoulli(logits=ENCODER(x)), 1), "Bernoulli.*discrete"),
    "Gumbel-softmax": (
        lambda x: distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=ENCODER(x)),
        "RelaxedOneHotCategorical, on a simplex.*biject_to",
    ),
    "Dirichlet": (lambda x: distributions.Dirichlet(ENCODER(x).exp()), "Dirichlet, on a simplex.*biject_to"),
    "gamma": (lambda x: Independent(distributions.Gamma(ENCODER(x).exp(), torch.ones(D)), 1), "Gamma.*biject_to"),
    "log-normal": (lambda x: Independent(distributions.LogNormal(ENCODER(x), 1.0), 1), "LogNormal.*biject_to"),
    "interval": (lambda x: Independent(distributions.Uniform(ENCODER(x) - 1, ENCODER(x) + 1), 1), "Uniform.*biject_to"),
    "sphere": (on_a_sphere, "sphere"),
}
ENTRIES: dict[str, Callable[..., Any]] = {"check": er.check, "decompose": er.decompose, "elbo": er.elbo}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", POSTERIORS)
def test_latents_that_are_no_real_numbers_are_refused(name: str, entry: str) -> None:
    q, words = POSTERIORS[name]
    with pytest.raises(CheckError, match=words):
        ENTRIES[entry](MODEL, q, X)


def test_a_prior_that_is_constrained_is_refused() -> None:
    prior = Independent(distributions.Gamma(torch.ones(D), torch.ones(D)), 1)
    with pytest.raises(CheckError, match="the prior gives Gamma"):
        er.elbo(DecoderModel(linear(D, P), "bernoulli", D, prior=prior), None, X)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "q",
    [
        lambda x: Independent(distributions.Normal(ENCODER(x), 1.0), 1),
        lambda x: Independent(distributions.StudentT(3.0, ENCODER(x), 1.0), 1),
        lambda x: distributions.MultivariateNormal(ENCODER(x), torch.eye(D).to(x)),
        lambda x: distributions.MixtureSameFamily(
            distributions.Categorical(torch.ones(len(x), 2).to(x)),
            Independent(distributions.Normal(torch.stack([ENCODER(x), -ENCODER(x)], 1), 1.0), 1),
        ),
    ],
)
def test_real_numbers_pass(q: Callable[[Tensor], Any]) -> None:
    assert er.check(MODEL, q, X) == []


class Rows(Dataset[Any]):
    """Data that are drawn again at every reading, by torch's generator or by one of their own; or are not."""

    def __init__(self, how: str) -> None:
        self.how, self.generator = how, torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        if self.how == "fixed":
            return X[index], 3
        generator = self.generator if self.how == "own generator" else None
        x = torch.bernoulli(torch.full((P,), 0.5), generator=generator)
        return {"x": x} if self.how == "mapping" else (x, 3)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("how", ["global generator", "own generator", "mapping"])
def test_data_that_change_are_refused(how: str, entry: str) -> None:
    with pytest.raises(CheckError, match=r"same at every reading.*stochastic"):
        ENTRIES[entry](MODEL, Amortized(linear(P, 2 * D), DiagonalGaussian(D)), Rows(how))


def test_data_that_do_not_change_pass() -> None:
    q = Amortized(linear(P, 2 * D), DiagonalGaussian(D))
    assert er.elbo(MODEL, q, Rows("fixed")).mean == er.elbo(MODEL, q, X).mean


class Functional(nn.Module):
    """A decoder whose last step is a sigmoid, taken in one of the ways that people write it."""

    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how, self.last = net, how, nn.Sigmoid()

    def forward(self, z: Tensor) -> Tensor:
        h = self.net(z)
        if self.how == "module":
            return self.last(h)
        if self.how == "method":
            return h.sigmoid()
        return torch.sigmoid(h).view(-1, P)


@pytest.mark.parametrize("how", ["module", "method", "function and view"])
def test_saturated_probabilities_are_scored_by_their_logits(how: str) -> None:
    """Logits of some hundreds: no datum is lost, and all numbers are those of the logits, bit by bit."""
    logits = linear(D, P)
    with torch.no_grad():
        logits.weight *= 200
    probs = Functional(logits, how)
    q = Amortized(linear(P, 2 * D, 1), DiagonalGaussian(D))
    scored = elbo(DecoderModel(probs, "bernoulli_probs", D), q, X, n_samples=50)
    expected = elbo(DecoderModel(logits, "bernoulli", D), q, X, n_samples=50)
    assert scored.finite.all()
    assert (scored.values == expected.values).all()
    assert bool((probs(torch.randn(50, D)) == 1).any())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's compiler
@pytest.mark.parametrize("how", ["module", "function and view"])
def test_compiled_probabilities_give_the_same_numbers(how: str) -> None:
    model = DecoderModel(Functional(linear(D, P), how), "bernoulli_probs", D)
    z = torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).to(X)
    plain, quick = log_joint_and_grad(model, X, z), CompiledModel(model).joint_and_grad(X, z)
    for one, other in zip(plain, quick, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_saturation_without_a_sigmoid_is_the_named_cause() -> None:
    logits = linear(D, P)
    with torch.no_grad():
        logits.weight *= 200

    def probs(z: Tensor) -> Tensor:
        return 0.5 + 0.5 * (0.5 * logits(z)).tanh()

    with pytest.raises(CheckError, match="probabilities are exactly 0 or 1"):
        er.check(DecoderModel(probs, "bernoulli_probs", D), None, X)
    with pytest.raises(CheckError, match="probabilities are exactly 0 or 1"):
        er.check(DecoderModel(probs, "bernoulli_probs", D), None, torch.ones(N, P))
    assert er.check(DecoderModel(lambda z: 0.01 + 0.98 * probs(z), "bernoulli_probs", D), None, X) == []


def test_double_precision_undoes_saturation_as_the_message_says() -> None:
    class Tanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(D, P)

        def forward(self, z: Tensor) -> Tensor:
            logits = 25 * (10 * self.net(z)).tanh()
            return 0.5 + 0.5 * (0.5 * logits).tanh()

    with pytest.raises(CheckError, match="or make it double precision"):
        er.check(DecoderModel(Tanh().float(), "bernoulli_probs", D), None, X)
    assert er.check(DecoderModel(Tanh().double(), "bernoulli_probs", D), None, X) == []


def test_a_decoder_that_reads_x_is_not_simulated() -> None:
    """Teacher forcing: data that are drawn given the old tokens are not the model's."""
    embed, read, out = nn.Embedding(9, 8), linear(3, 8), linear(8, 8)

    def decoder(z: Tensor, tokens: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(tokens[:, :1], 8), tokens[:, :-1]], 1)
        hidden: Tensor = out(embed(before) + read(z)[:, None])
        return hidden

    tokens = torch.randint(8, (60, 5), generator=torch.Generator().manual_seed(0))
    model = DecoderModel(decoder, "categorical", 3, condition=["tokens"])
    with pytest.raises(CheckError, match='reads x itself as "tokens"'):
        er.sandwich(model, 20, like={"x": tokens, "tokens": tokens})

    class Ancestral(DecoderModel):
        """The same with a sampler of its own, which is trusted."""

        def sample_data(self, z: Tensor, x: Any, generator: torch.Generator) -> Any:
            drawn = torch.zeros(len(z), 5, dtype=torch.int64)
            for step in range(5):
                logits = self.decode(z[None], {"x": drawn, "tokens": drawn})[0]
                drawn[:, step] = torch.distributions.Categorical(logits=logits[:, step]).sample()
            return {"x": drawn, "tokens": drawn}

    sampler = Ancestral(decoder, "categorical", 3, condition=["tokens"])
    assert er.sandwich(sampler, 20, like={"x": tokens, "tokens": tokens}).width.mean < 1


def test_a_whole_vae_in_place_of_a_model_names_what_makes_one() -> None:
    class Whole(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            return x

    foreign = type("VAE", (nn.Module,), {"__module__": "pythae.models.vae.vae_model"})()
    cases = ((Whole(), r"er\.plain\(net"), (foreign, r"er\.pythae\(model"), (linear(2, 2), "er.DecoderModel"))
    for net, words in cases:
        for entry in ENTRIES.values():
            with pytest.raises(CheckError, match=words):
                entry(net, None, X)
