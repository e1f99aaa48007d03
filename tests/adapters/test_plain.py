"""A VAE that is one module: every way to say what it returns gives the model and the posterior of the plain parts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.distributions import Independent, Normal

import elbowroom as er

from ..statistics import assert_mean_is

P, D, N, S = 12, 3, 60, 400


class Net(nn.Module):
    """The VAE of many repositories, with dropout; `answer` and `output` are what its methods return."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any], output: Callable[[Tensor], Any], wide: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fc1, self.fc2, self.fc3 = nn.Linear(P, 8), nn.Linear(8, 2 * D), nn.Linear(D, wide * P)
        self.latent_dim, self.dropout = D, nn.Dropout(0.5)
        self.answer, self.output = answer, output

    def encode(self, x: Tensor) -> Any:
        return self.answer(*self.fc2(self.dropout(self.fc1(x).tanh())).chunk(2, -1))

    def decode(self, z: Tensor) -> Any:
        return self.output(self.fc3(self.dropout(z)))


ENCODE: dict[str, list[Callable[[Tensor, Tensor], Any]]] = {
    "mean_logvar": [lambda m, v: (m, v), lambda m, v: [m, v], lambda m, v: torch.cat([m, v], -1)],
    "mean_std": [lambda m, v: (m, (0.5 * v).exp())],
    "distribution": [
        lambda m, v: Independent(Normal(m, (0.5 * v).exp()), 1),
        lambda m, v: Normal(m, (0.5 * v).exp()),
    ],
}
DECODE: dict[str, list[tuple[Callable[[Tensor], Any], Any]]] = {
    "logits": [(lambda h: h, None), (lambda h: h, "bernoulli")],
    "probs": [(torch.sigmoid, None), (torch.sigmoid, "bernoulli")],
    "mean": [(lambda h: h, er.likelihoods.gaussian(0.5))],
    "mean_logvar": [(lambda h: h.chunk(2, -1), None), (lambda h: h, None)],
    "distribution": [
        (lambda h: distributions.Bernoulli(logits=h), None),
        (lambda h: Independent(distributions.Bernoulli(logits=h), 1), None),
    ],
}
PAIRS = [(e, d, i, j) for e in ENCODE for d in DECODE for i in range(len(ENCODE[e])) for j in range(len(DECODE[d]))]
X = (torch.rand(N, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64) < 0.5).double()


def log_likelihood(decode: str, h: Tensor) -> Tensor:
    """log p(x|z) in nats of the decoder's last layer."""
    if decode == "mean":
        return Normal(h, 0.5).log_prob(X).sum(-1)
    if decode == "mean_logvar":
        mean, log_var = h.chunk(2, -1)
        return Normal(mean, (0.5 * log_var).exp()).log_prob(X).sum(-1)
    return distributions.Bernoulli(logits=h).log_prob(X).sum(-1)


@pytest.mark.parametrize(("encode", "decode", "i", "j"), PAIRS)
def test_every_answer_gives_the_same_elbo(encode: Any, decode: Any, i: int, j: int) -> None:
    """The ELBO of the owner's formula; five errors are allowed (false alarms: 1e-5 in all). The module, which is in
    train mode, is left so, and its dropout is off while it is measured.
    """
    output, likelihood = DECODE[decode][j]
    net = Net(ENCODE[encode][i], output, 2 if decode == "mean_logvar" else 1).double()
    model, q = er.plain(net, likelihood, encode, decode)
    ours = er.elbo(model, q, X, n_samples=S)
    assert net.training
    assert er.check(model, q, X) == []
    with torch.no_grad():
        mean, log_var = net.fc2(net.fc1(X).tanh()).chunk(2, -1)
        e = torch.randn(S, N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        reconstruction = log_likelihood(decode, net.fc3(mean + (0.5 * log_var).exp() * e)).mean(0)
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
    theirs = (reconstruction - kl).mean().item()
    assert abs(ours.mean - theirs) < 5 * 1.5 * ours.mc_se


def test_the_amortization_gap_of_a_plain_module_is_a_step() -> None:
    model, q = er.plain(Net(ENCODE["mean_std"][0], torch.sigmoid).double(), None, "mean_std", "probs")
    gaps = er.decompose(model, q, X[:20], plan="quick")
    assert gaps.amortization.mean > 0
    assert er.sandwich(er.plain(Net(ENCODE["mean_std"][0], lambda h: distributions.Bernoulli(logits=h)), None,
                                "mean_std", "distribution")[0], 20).width.mean < 0.5  # fmt: skip


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no encode": ({"decode": "logits"}, ValueError, "mean, log variance.*mean, standard deviation"),
    "no decode": ({"encode": "mean_std"}, ValueError, "logits, probabilities or a mean"),
    "unknown": ({"encode": "mean_var", "decode": "logits"}, ValueError, "got 'mean_var'"),
    "a mean alone": ({"encode": "mean_logvar", "decode": "mean"}, ValueError, r"gaussian\(0.1\)"),
    "two likelihoods": (
        {"encode": "mean_logvar", "decode": "distribution", "likelihood": "bernoulli"},
        ValueError,
        "leave likelihood out",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_missing_answer_is_asked_for(name: str) -> None:
    arguments, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        er.plain(Net(ENCODE["mean_logvar"][0], lambda h: h), **arguments)


def test_what_the_module_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"must have encode or encoder; its submodules are \['0'\]"):
        er.plain(nn.Sequential(nn.Linear(2, 2)), None, "mean_std", "logits")
    net = Net(ENCODE["mean_logvar"][0], lambda h: h)
    del net.latent_dim
    with pytest.raises(ValueError, match="latent_shape must be given"):
        er.plain(net, None, "mean_logvar", "logits")
    assert er.plain(net, None, "mean_logvar", "logits", latent_shape=D)[0].latent_shape == (D,)
    with pytest.raises(TypeError, match="torch module"):
        er.plain(lambda x: x, None, "mean_std", "logits")  # type: ignore[arg-type]


def test_an_answer_that_the_module_contradicts_is_refused() -> None:
    """A log variance is negative somewhere; three outputs are not two; a tensor is no distribution."""
    x = X.float()
    with pytest.raises(ValueError, match='It may be a log variance: encode="mean_logvar"'):
        er.elbo(*er.plain(Net(lambda m, v: (m, v - 9), lambda h: h), None, "mean_std", "logits"), x)
    with pytest.raises(ValueError, match=r"two tensors.*got 3 parts"):
        er.elbo(*er.plain(Net(lambda m, v: (m, m, v), lambda h: h), None, "mean_logvar", "logits"), x)
    with pytest.raises(TypeError, match="got Tensor"):
        er.elbo(*er.plain(Net(lambda m, v: (m, v), lambda h: h), None, "mean_logvar", "distribution"), x)


PSEUDO = torch.randn(5, P, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def with_layer(net: Net) -> None:
    """A layer without a bias whose answers to the rows of the identity are the pseudo-inputs."""
    layer = nn.Linear(5, P, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(PSEUDO.T)
    net.register_module("means", layer)
    net.register_buffer("idle_input", torch.eye(5, dtype=torch.float64))


VAMPS: dict[str, Callable[[Net], None]] = {
    "a parameter": lambda net: net.register_parameter("pseudo_inputs", nn.Parameter(PSEUDO)),
    "a method": lambda net: setattr(net, "pseudoinputs", lambda: PSEUDO),
    "a layer and its idle input": with_layer,
}


@pytest.mark.parametrize("form", VAMPS)
def test_a_vamp_prior_is_found_by_name(form: str) -> None:
    """Its density is the mean of those of the encoder's answers; its draws have that mixture's mean and variance."""
    net = Net(ENCODE["mean_std"][0], lambda h: h).double().eval()
    VAMPS[form](net)
    model, q = er.plain(net, None, "mean_std", "logits", prior="vamp")
    z = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        mean, scale = net.encode(PSEUDO)
        each = Normal(mean, scale).log_prob(z[..., None, :]).sum(-1)
    torch.testing.assert_close(model.log_prior(z), torch.logsumexp(each, -1) - math.log(5))
    drawn = model.sample_prior(4000, None, torch.Generator().manual_seed(5))[:, 0]
    for moment in (1, 2):
        powers = drawn**moment
        exact = mean.mean(0) if moment == 1 else (mean.square() + scale.square()).mean(0)
        for i in range(D):
            assert_mean_is(powers[:, i].numpy(), float(exact[i]))
    assert er.decompose(model, q, X[:20], plan="quick").amortization.mean > 0


class TwoLayers(nn.Module):
    """Latents z_1 (2) given z_2 (1), as one vector; the encoder gives a pair for each layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.low, self.high, self.out = nn.Linear(P, 4), nn.Linear(P, 2), nn.Linear(2, P)

    def encode(self, x: Tensor) -> Any:
        return [self.low(x).chunk(2, -1), self.high(x).chunk(2, -1)]

    def decode(self, z: Tensor) -> Tensor:
        return self.out(z[:, :2])

    def log_prior(self, z: Tensor) -> Tensor:
        low, high = z.split([2, 1], -1)
        return Normal(0.0, 1.0).log_prob(high).sum(-1) + Normal(high.expand_as(low), 0.5).log_prob(low).sum(-1)


def test_layers_of_latents_are_one_vector() -> None:
    """The ELBO is that of the two layers, within five errors (false alarms: 6e-7), and amortization is a step."""
    net = TwoLayers().double()
    model, q = er.plain(net, None, "layers", "logits", latent_shape=3, prior=net.log_prior)
    ours = er.elbo(model, q, X, n_samples=S)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        total = torch.zeros(S, N, dtype=torch.float64)
        layers = []
        for mean, log_var in net.encode(X):
            e = torch.randn(S, *mean.shape, generator=generator, dtype=torch.float64)
            layers.append(mean + (0.5 * log_var).exp() * e)
            total -= Normal(mean, (0.5 * log_var).exp()).log_prob(layers[-1]).sum(-1)
        low, high = layers
        total += Normal(high, 0.5).log_prob(low).sum(-1) + Normal(0.0, 1.0).log_prob(high).sum(-1)
        total += distributions.Bernoulli(logits=net.out(low)).log_prob(X).sum(-1)
    assert abs(ours.mean - total.mean().item()) < 5 * 1.5 * ours.mc_se
    gaps = er.decompose(model, q, X[:20], plan="quick")
    assert gaps.family == "diagonal"
    assert gaps.amortization.mean > 0


@pytest.mark.parametrize(
    ("prior", "encode", "kind", "words"),
    [
        ("vamp", "mean_std", ValueError, "pseudo-inputs, and Net has none of"),
        ("vamp", "distribution", ValueError, "needs an encode that gives a Gaussian"),
        ("vampire", "mean_std", ValueError, '"vamp", an object with log_prob'),
        (3.0, "mean_std", TypeError, r"a function z -> log p\(z\); got a float|a function"),
    ],
)
def test_mistakes_about_the_prior_are_named(prior: Any, encode: Any, kind: type[Exception], words: str) -> None:
    net = Net(ENCODE[encode][0], lambda h: h).double()
    with pytest.raises(kind, match=words):
        er.plain(net, None, encode, "logits", prior=prior)


def test_the_prior_of_shaped_latents_is_flat() -> None:
    """Latents of shape (3, 1) have the same VampPrior as three latents."""
    net = Net(ENCODE["mean_std"][0], lambda h: h).double().eval()
    VAMPS["a method"](net)
    flat, _ = er.plain(net, None, "mean_std", "logits", prior="vamp")
    shaped, _ = er.plain(net, None, "mean_std", "logits", latent_shape=(3, 1), prior="vamp")
    z = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(shaped.log_prior(z), flat.log_prior(z), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("encode", "answer", "words"),
    [
        ("mean_logvar", lambda m, v: ([m, m], [v, v]), "lists of tensors.*encode is .layers."),
        ("layers", lambda m, v: (m, v), "of one shape for each layer; got tuple"),
        ("layers", lambda m, v: [(m, v, v)], "of one shape for each layer"),
        ("layers", lambda m, v: [(m, v[:, :1])], "of one shape for each layer"),
        ("layers", lambda m, v: m, "of one shape for each layer"),
    ],
)
def test_layers_are_asked_for(encode: Any, answer: Any, words: str) -> None:
    """Two means and two log variances look like a mean and a log variance for each of two layers."""
    net = Net(answer, lambda h: h).double()
    with pytest.raises(ValueError, match=words):
        er.elbo(*er.plain(net, None, encode, "logits"), X)
