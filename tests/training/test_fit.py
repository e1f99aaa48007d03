"""Training: gradient steps against a loop written out, closed-form optima, stops, folders of models."""

import json
import math
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, elu

import elbowroom as er
from elbowroom.core import normal, seeded
from elbowroom.datasets import binarize, demo_images, fashion_mnist
from elbowroom.evidence import bounds
from elbowroom.models import DecoderModel, LinearGaussian, likelihoods
from elbowroom.posteriors import Amortized, DiagonalGaussian
from elbowroom.training import (
    Architecture,
    Epoch,
    Settings,
    build,
    demo_model,
    entropy_weight,
    family_names,
    fit,
    learning_rate_factor,
    load_model,
    read_tensors,
    run_epoch,
    save_model,
    shipped,
    step_of,
    training_progress,
    write_tensors,
)

from ..statistics import assert_at_most_z, assert_close_z

SMALL = Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,))


@pytest.fixture(autouse=True)
def one_thread(torch_settings: None) -> None:
    """Matrices of a few rows gain nothing from more; `torch_settings` puts the number back."""
    torch.set_num_threads(1)


def bits(n: int = 23, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n, width), generator=seeded(seed, "bits")).to(torch.get_default_dtype())


def state(*modules: nn.Module) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def fresh(out: Path | None = None, progress: Any = None, **settings: Any) -> tuple[list[Tensor], tuple[Epoch, ...]]:
    """The parameters and the record of a run of the small model from its own start."""
    model, q = build(SMALL, seed=3)
    chosen: dict[str, Any] = {"epochs": 3, "batch_size": 10} | settings
    record = fit(model, q, bits(), Settings(**chosen), out=out, progress=progress)
    return state(q, model), record


# ---- the steps


def written_out(
    x: Tensor, epochs: int, seed: int, warmup: int, kl_weight: float, rate: float, clip: float = math.inf
) -> list[Tensor]:
    """Networks, objective and Adam by their formulas: nothing of train, families or model but the start."""
    model, q = build(SMALL, seed=3)
    weights = [p.detach().clone().requires_grad_() for p in (*q.parameters(), *model.parameters())]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    t = 0
    for epoch in range(1, epochs + 1):
        generator = seeded(seed, "train", epoch)
        order = torch.randperm(len(x), generator=generator)
        w = 1.0 if warmup == 0 else min(1.0, epoch / warmup)
        for start in range(0, len(x), 10):
            batch = x[order[start : start + 10]]
            noise = normal((1, len(batch), 2), generator, x)[0]
            w1, b1, w2, b2, w3, b3, w4, b4 = weights
            mean, log_var = (elu(batch @ w1.T + b1) @ w2.T + b2).split(2, dim=1)
            z = mean + (0.5 * log_var).exp() * noise
            logits = elu(z @ w3.T + b3) @ w4.T + b4
            log_likelihood = -binary_cross_entropy_with_logits(logits, batch, reduction="none").sum(1)
            log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
            log_q = torch.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(1)
            loss = -(log_likelihood + kl_weight * (log_prior - w * log_q)).mean()
            gradients = list(torch.autograd.grad(loss, weights))
            norm = sum(g.square().sum().item() for g in gradients) ** 0.5
            gradients = [g * min(1.0, clip / norm) for g in gradients]
            t += 1
            for i, g in enumerate(gradients):
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                scale = (second[i] / (1 - 0.999**t)).sqrt() + 1e-4
                weights[i].data -= rate * first[i] / (1 - 0.9**t) / scale
    return [w.detach() for w in weights]


@pytest.mark.parametrize(("warmup", "kl_weight"), [(0, 1.0), (4, 1.0), (2, 1.0), (0, 3.0), (4, 0.5)])
def test_fit_takes_the_steps_of_a_loop_written_out(warmup: int, kl_weight: float) -> None:
    found, _ = fresh(warmup=warmup, kl_weight=kl_weight, learning_rate=0.01)
    expected = written_out(bits(), 3, 0, warmup, kl_weight, 0.01)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_a_gradient_is_clipped_to_its_norm(clip: float) -> None:
    """At 0.5 every step is; at a million none, and the answer is that without a limit."""
    found, _ = fresh(learning_rate=0.01, clip_norm=clip)
    for a, b in zip(found, written_out(bits(), 3, 0, 0, 1.0, 0.01, clip), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert same(found, fresh(learning_rate=0.01)[0]) is (clip == 1e6)


def test_warmup_and_kl_weight_change_the_answer() -> None:
    """The other direction of the test above: the settings it varies are not without effect."""
    plain, _ = fresh()
    changes: list[dict[str, Any]] = [
        {"warmup": 4}, {"kl_weight": 3.0}, {"learning_rate": 2e-3}, {"schedule": "cosine"}, {"n_samples": 2},
        {"warmup": 4, "annealing": "kl"}, {"objective": "iwae", "n_samples": 2},
    ]  # fmt: skip
    for settings in changes:
        assert not same(plain, fresh(**settings)[0]), settings


def loss_of(settings: Settings, weight: float) -> tuple[float, Tensor]:
    """What one step of `settings` descends on six data, and log p(x|z), log p(z), log q of its draws, (3, K, 6)."""
    model, q = build(SMALL, seed=3)
    x = bits(6)
    noise = normal((settings.n_samples, 6, 2), seeded(0, "noise"), x)
    loss, _ = step_of(model, q, settings)(x, noise, torch.tensor(weight))
    z, log_q = q(x).rsample_and_log_q(noise)
    return loss.item(), torch.stack([model.log_likelihood(x, z), model.log_prior(z), log_q]).detach()


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_objectives_by_their_formulas(weight: float) -> None:
    """log p(x|z) + b (log p(z) - w log q), log p(x|z) + b w (log p(z) - log q), and log mean p(x, z) / q(z|x)."""
    loss, (fits, priors, log_q) = loss_of(Settings(epochs=1, n_samples=3, kl_weight=2.0), weight)
    assert -loss == pytest.approx((fits + 2 * (priors - weight * log_q)).mean().item())
    loss, _ = loss_of(Settings(epochs=1, n_samples=3, kl_weight=2.0, annealing="kl"), weight)
    assert -loss == pytest.approx((fits + 2 * weight * (priors - log_q)).mean().item())
    loss, _ = loss_of(Settings(epochs=1, n_samples=3, objective="iwae"), weight)
    assert -loss == pytest.approx((fits + priors - log_q).exp().mean(0).log().mean().item())


def test_annealing_none_has_no_warmup() -> None:
    assert {e.weight for e in fresh(warmup=4, annealing="none")[1]} == {1.0}
    assert same(fresh(warmup=4, annealing="none")[0], fresh()[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_a_compiled_step_is_the_plain_one_up_to_rounding() -> None:
    plain, compiled = fresh(warmup=4)[0], fresh(warmup=4, compiled=True)[0]
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b)


def test_entropy_weights_of_the_paper() -> None:
    assert [entropy_weight(e, 400) for e in (1, 100, 399, 400, 401, 3280)] == [
        0.0025, 0.25, 0.9975, 1.0, 1.0, 1.0,
    ]  # fmt: skip
    assert [e.weight for e in fresh(epochs=5, warmup=4)[1]] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert {e.weight for e in fresh(epochs=5)[1]} == {1.0}


def test_objective_is_the_elbo_unless_reweighted() -> None:
    for epoch in fresh()[1]:
        assert epoch.objective == pytest.approx(epoch.elbo, rel=1e-5)
    assert abs(fresh(warmup=4)[1][0].objective - fresh(warmup=4)[1][0].elbo) > 0.1


def test_stepped_schedule_is_burda_s() -> None:
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert [learning_rate_factor("stepped", e, 3280) for e in range(1, 3281)] == expected
    half = [learning_rate_factor("stepped", e, 1640) for e in range(1, 1641)]
    assert half == expected[::2]


def test_other_schedules() -> None:
    cosine = [learning_rate_factor("cosine", e, 10) for e in range(1, 11)]
    assert cosine[0] == 1.0
    assert cosine[5] == pytest.approx(0.5)
    assert all(0 < b < a for a, b in pairwise(cosine))
    record = fresh(schedule=lambda epoch, epochs: epoch / epochs, learning_rate=0.3)[1]
    assert [e.learning_rate for e in record] == pytest.approx([0.1, 0.2, 0.3])


# ---- what it reaches


def test_training_reaches_the_maximum_likelihood_of_probabilistic_pca() -> None:
    """One latent, linear networks, learned noise: q's family holds the posterior, so the ELBO's maximum is
    the likelihood's, known from the covariance's eigenvalues (Tipping and Bishop 1999, section 3.2)."""
    generator = seeded(0, "ppca")
    truth = LinearGaussian(torch.tensor([[1.5], [-1.0], [0.7], [0.3]]), torch.tensor([0.5, 0.0, -1.0, 2.0]), 0.4)
    z = normal((400, 1), generator, truth.bias)
    x = z @ truth.weight.T + truth.bias + 0.4 * normal((400, 4), generator, truth.bias)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    rest = eigenvalues[1:].mean()
    best = -0.5 * (4 * math.log(2 * math.pi) + eigenvalues[0].log() + 3 * rest.log() + 4).item()

    linear = Architecture(
        n_in=4, n_latent=1, encoder_hidden=(), decoder_hidden=(), likelihood="gaussian", scale="learned"
    )
    model, q = build(linear, seed=0)
    before = bounds.elbo(model, q, x, n_samples=64).mean
    fit(model, q, x, Settings(epochs=200, seed=0, learning_rate=0.1, schedule="cosine"))
    after = bounds.elbo(model, q, x, n_samples=64)
    assert before < best - 2
    assert_at_most_z(after.mean, best, after.mc_se)
    assert after.mean > best - 0.02


def test_training_improves_the_elbo_of_images() -> None:
    """From some -784 log 2 = -543 nats to what 250 images teach in 20 epochs: at least 250 nats better on
    them, and 200 on images not seen."""
    images = demo_images()
    model, q = build(Architecture(encoder_hidden=(50,), decoder_hidden=(50,), n_latent=5))
    before = {name: bounds.elbo(model, q, x[:100], n_samples=16).mean for name, x in images.items()}
    record = fit(model, q, images["train"], Settings(epochs=20, seed=0, batch_size=25, learning_rate=3e-3))
    after = {name: bounds.elbo(model, q, x[:100], n_samples=16).mean for name, x in images.items()}
    assert before["train"] < -500
    assert after["train"] > before["train"] + 250
    assert after["heldout"] > before["heldout"] + 200
    assert record[-1].elbo > record[0].elbo + 100


def test_a_frozen_decoder_stays_while_q_learns() -> None:
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 6)).eval()
    model = DecoderModel(decoder, "bernoulli", 2).requires_grad_(False)
    q = Amortized(nn.Linear(6, 4), DiagonalGaussian(2))
    model.train()
    decoder.eval()
    frozen, start = state(model), state(q)
    before = bounds.elbo(model, q, bits(), n_samples=64).mean
    fit(model, q, bits(), Settings(epochs=100, seed=0, learning_rate=0.01))
    assert same(state(model), frozen)
    assert not same(state(q), start)
    assert bounds.elbo(model, q, bits(), n_samples=64).mean > before + 0.05
    assert model.training
    assert not decoder.training


# ---- randomness, modes, kinds of data


def test_a_seed_gives_one_answer_bit_for_bit() -> None:
    first, record = fresh()
    again, repeated = fresh()
    assert same(first, again)
    assert record == repeated
    other, _ = fresh(seed=1)
    assert not same(first, other)


@pytest.mark.parametrize("networks", ["mlp", "conv"])
def test_a_full_gaussian_starts_with_a_diagonal_covariance(networks: str) -> None:
    size, hidden = ((3, 32, 32), (4, 4, 4)) if networks == "conv" else (6, (5,))
    of = {"n_in": size, "n_latent": 3, "encoder_hidden": hidden, "decoder_hidden": hidden, "networks": networks}
    _, q = build(of | {"family": "full"})
    shape = size if isinstance(size, tuple) else (size,)
    params = q(torch.rand(2, *shape)).params
    assert not params["lower"].any()
    assert params["mean"].abs().min() > 0
    assert params["log_scale"].abs().min() > 0


def test_initial_weights_are_a_function_of_the_seed() -> None:
    assert same(state(*build(SMALL, 3)), state(*build(SMALL, 3)))
    assert not same(state(*build(SMALL, 3)), state(*build(SMALL, 4)))


class Noisy(nn.Module):
    """A network with dropout, which draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_global_random_state_and_modes_are_left_as_found() -> None:
    answers = []
    for global_seed in (1, 2):
        model, _ = build(SMALL, seed=3)
        torch.manual_seed(7)
        q = Amortized(Noisy(), DiagonalGaussian(2)).eval()
        torch.manual_seed(global_seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
        fit(model.train(), q, bits(), Settings(epochs=2, seed=0))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
        assert not any(part.training for part in q.modules())
        assert all(part.training for part in model.modules())
        assert all(p.grad is None for p in (*q.parameters(), *model.parameters()))
        answers.append(state(q, model))
    assert same(*answers)  # dropout too is keyed by the seed of fit


class Rows(torch.utils.data.Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


@pytest.mark.parametrize("kind", ["mapping", "dataset", "loader", "other precision"])
def test_kinds_of_data_give_one_answer(kind: str) -> None:
    x = bits()
    given: Any = {
        "mapping": {"x": x},
        "dataset": Rows(x),
        "loader": torch.utils.data.DataLoader(Rows(x)),
        "other precision": x.to(torch.float16),
    }[kind]
    model, q = build(SMALL, seed=3)
    fit(model, q, given, Settings(epochs=3, batch_size=10))
    assert same(state(q, model), fresh()[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"warmup": -1}, "warmup must be at least 0; got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite"),
        ({"kl_weight": math.nan}, "kl_weight must be positive and finite"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"objective": "vae"}, "objective must be one of elbo, iwae; got 'vae'"),
        ({"annealing": "beta"}, "annealing must be one of entropy, kl, none; got 'beta'"),
        ({"objective": "iwae", "warmup": 3}, "objective iwae has no terms to weigh"),
        ({"clip_norm": -1.0}, "clip_norm must be finite and not negative; got -1.0"),
        ({"patience": -1}, "patience must be at least 0; got -1"),
        ({"patience": 2}, "patience 2 needs heldout data to stop by"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fresh(**settings)


def test_nothing_to_train_is_said() -> None:
    model, q = build(SMALL)
    with pytest.raises(ValueError, match="nothing to train"):
        fit(model.requires_grad_(False), q.requires_grad_(False), bits(), Settings(epochs=1, seed=0))


# ---- stops and folders


def test_nan_in_the_data_stops_at_once(tmp_path: Path) -> None:
    x = bits()
    x[11, 3] = math.nan
    model, q = build(SMALL, seed=3)
    before = state(q, model)
    with pytest.raises(FloatingPointError, match="stopped in epoch 1: its objective, nan") as caught:
        fit(model, q, x, Settings(epochs=5, seed=0), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert same(state(q, model), before)
    assert not (tmp_path / "run").exists()


def test_divergence_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    good, _ = fresh(epochs=2)
    model, q = build(SMALL, seed=3)

    def diverging(epoch: int, epochs: int) -> float:
        return 1.0 if epoch < 3 else math.inf

    with pytest.raises(FloatingPointError, match=r"stopped in epoch 3.*parameters are those of epoch 2, saved in"):
        fit(
            model, q, bits(), Settings(epochs=5, batch_size=10, schedule=diverging), out=out,
            config={"architecture": asdict(SMALL)}, checkpoint_seconds=0,
        )  # fmt: skip
    assert same(state(q, model), good)
    loaded, loaded_q, config = load_model(out, unfinished=True)
    assert same(state(loaded_q, loaded), good)
    assert config["training"]["epochs_done"] == 2
    assert config["training"]["schedule"] == "diverging"
    assert [json.loads(line)["epoch"] for line in (out / "epochs.jsonl").read_text().splitlines()] == [1, 2]


def paused(
    out: Path, after: int, keep: tuple[int, ...] = (), config: dict[str, Any] | None = None, **settings: Any
) -> None:
    """A run that is broken off after some epochs, checkpoint and all, as by a kill."""

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise KeyboardInterrupt

    model, q = build(SMALL, seed=3)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, q, bits(), Settings(**settings), out=out, config=config, checkpoint_seconds=0, keep=keep,
            progress=stop,
        )  # fmt: skip


LONGER: dict[str, Any] = {"epochs": 6, "batch_size": 10, "schedule": "cosine", "warmup": 4}


def test_a_run_that_was_broken_off_goes_on_to_the_same_parameters(tmp_path: Path) -> None:
    paused(tmp_path / "run", 2, **LONGER)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint.safetensors", "config.json", "epochs.jsonl"]
    with (tmp_path / "run" / "epochs.jsonl").open("a") as lines:
        lines.write('{"epoch": 3, "obj')  # a line that the kill cut
    (tmp_path / "run" / ".checkpoint.safetensors.part").write_bytes(b"cut")
    again, record = fresh(out=tmp_path / "run", **LONGER)
    whole, expected = fresh(out=tmp_path / "whole", **LONGER)
    assert same(again, whole)
    assert record == expected
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    lines_of = [(tmp_path / run / "epochs.jsonl").read_text().splitlines() for run in ("run", "whole")]
    for found in lines_of:
        assert [json.loads(line)["elbo"] for line in found] == pytest.approx([e.elbo for e in record], rel=1e-5)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["config.json", "epochs.jsonl", "model.safetensors"]


def test_adam_s_moments_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    """The other direction: without them a run that goes on ends elsewhere."""
    paused(tmp_path / "run", 2, **LONGER)
    path = tmp_path / "run" / "checkpoint.safetensors"
    held, notes = read_tensors(path)
    for name in held:
        if name.endswith("exp_avg"):
            held[name].zero_()
    write_tensors(path, held, notes)
    assert not same(fresh(out=tmp_path / "run", **LONGER)[0], fresh(**LONGER)[0])


@pytest.mark.parametrize("broken_off_after", [0, 1, 3, 5])
def test_models_of_epochs_are_kept(tmp_path: Path, broken_off_after: int) -> None:
    """They are the parameters at the end of these epochs, whether or not the run was broken off."""
    out, config = tmp_path / "run", {"architecture": asdict(SMALL)}
    if broken_off_after:
        paused(out, broken_off_after, keep=(2, 4), config=config, **LONGER)
        kept = {path.name for path in out.glob("epoch-*")}
        assert kept == {f"epoch-{epoch}" for epoch in (2, 4) if epoch <= broken_off_after}
    model, q = build(SMALL, seed=3)
    fit(model, q, bits(), Settings(**LONGER), out=out, config=config, keep=(2, 4))
    seen: list[list[Tensor]] = []
    model, q = build(SMALL, seed=3)
    fit(model, q, bits(), Settings(**LONGER), progress=lambda epoch: seen.append(state(q, model)))
    for epoch in (2, 4):
        loaded, loaded_q, found = load_model(out / f"epoch-{epoch}")
        assert same(state(loaded_q, loaded), seen[epoch - 1])
        assert found["training"]["epoch_kept"] == epoch
    loaded, loaded_q, _ = load_model(out)
    assert same(state(loaded_q, loaded), seen[-1])
    assert {path.name for path in out.glob("epoch-*")} == {"epoch-2", "epoch-4"}


def test_models_of_a_run_that_left_no_checkpoint_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    out, config = tmp_path / "run", {"architecture": asdict(SMALL)}
    model, q = build(SMALL, seed=3)

    def killed(epoch: Epoch) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        fit(model, q, bits(), Settings(**LONGER), out=out, config=config, keep=(1,), progress=killed)
    (out / "epoch-1" / ".model.safetensors.part").write_bytes(b"cut")
    assert (out / "epoch-1" / "model.safetensors").exists()
    fit(model, q, bits(), Settings(**LONGER, seed=1), out=out, config=config, keep=(3,))
    kept = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path.parent != out}
    assert kept == {"epoch-3/config.json", "epoch-3/model.safetensors"}


def test_a_run_that_is_past_an_epoch_cannot_keep_it(tmp_path: Path) -> None:
    paused(tmp_path / "run", 3, keep=(3,), **LONGER)
    model, q = build(SMALL, seed=3)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match="is past epoch 2 and did not keep its model"):
        fit(model, q, bits(), Settings(**LONGER), out=tmp_path / "run", keep=(2, 3))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    for keep, message in (((0,), "epochs from 1 to 6; got 0"), ((7,), "epochs from 1 to 6; got 7")):
        with pytest.raises(ValueError, match=message):
            fit(model, q, bits(), Settings(**LONGER), out=tmp_path / "run", keep=keep)
    with pytest.raises(ValueError, match="the folder `out`; got none"):
        fit(model, q, bits(), Settings(**LONGER), keep=(2,))


def test_a_run_can_be_measured_before_it_ends(tmp_path: Path) -> None:
    model, q = build(SMALL, seed=3)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    config = {"architecture": asdict(SMALL)}
    settings = Settings(**LONGER)
    with pytest.raises(KeyboardInterrupt):
        fit(model, q, bits(), settings, out=tmp_path / "run", config=config, checkpoint_seconds=0, progress=stop)
    with pytest.raises(ValueError, match=r"run: unfinished: epoch 2 of 6\. Run its training again"):
        load_model(tmp_path / "run")
    loaded, loaded_q, read = load_model(tmp_path / "run", unfinished=True)
    assert same(state(loaded_q, loaded), state(q, model))
    assert read["training"]["epochs_done"] == 2


def interrupted(after: int, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> str:
    """A run that Ctrl-C reaches within the epoch after `after` -> what it says."""
    real = run_epoch

    def run(step: Any, x: Any, optimizer: Any, n_noise: int, epoch: int, settings: Settings) -> Epoch:
        metrics = real(step, x, optimizer, n_noise, epoch, settings)
        if epoch == after + 1:
            raise KeyboardInterrupt
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[fit.__module__], "run_epoch", run)
        with pytest.raises(KeyboardInterrupt) as caught:
            fresh(**kwargs)
    return str(caught.value)


def test_an_interrupted_run_is_saved_and_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no checkpoint was due, and though the parameters had moved on within an epoch."""
    out = tmp_path / "run"
    said = interrupted(2, monkeypatch, out=out, **LONGER)
    assert said == f"after epoch 2 of 6, which is saved in {out}; run the same command again to resume"
    assert training_progress(out) == "epoch 2 of 6"
    (resumed, _), (whole, _) = fresh(out=out, **LONGER), fresh(**LONGER)
    assert same(resumed, whole)
    assert interrupted(0, monkeypatch, out=tmp_path / "none", **LONGER) == "after epoch 0 of 6; nothing was saved"
    assert not (tmp_path / "none").exists()


def test_another_run_s_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    paused(out, 2, **LONGER)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match="holds a run with batch_size 10, not 5") as caught:
        fresh(out=out, **LONGER | {"batch_size": 5})
    assert "\n" not in str(caught.value)
    model, q = build(SMALL, seed=3)
    with pytest.raises(ValueError, match="holds a run on other data"):
        fit(model, q, bits(22), Settings(**LONGER), out=out)
    model, q = build(Architecture(n_in=6, n_latent=2, encoder_hidden=(7,), decoder_hidden=(4,)), seed=3)
    with pytest.raises(ValueError, match=r"q.net.1.weight should have shape \(7, 6\); got \(5, 6\)"):
        fit(model, q, bits(), Settings(**LONGER), out=out)
    (out / "checkpoint.safetensors").write_bytes(before["checkpoint.safetensors"][:-1])
    with pytest.raises(ValueError, match="damaged, or not a safetensors file"):
        fresh(out=out, **LONGER)
    (out / "checkpoint.safetensors").write_bytes(before["checkpoint.safetensors"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("change", ["nothing", "likelihood", "frozen", "another decoder"])
def test_a_run_of_other_networks_is_not_gone_on_with(tmp_path: Path, change: str) -> None:
    """Of the same names and shapes, but another meaning."""

    def begun(change: str) -> tuple[Any, Any, dict[str, Any]]:
        model, q = build(SMALL, seed=3)
        if change == "another decoder":
            model, _ = build(SMALL, seed=4)
        if change != "frozen":
            model.requires_grad_(False)
        likelihood = "continuous_bernoulli" if change == "likelihood" else SMALL.likelihood
        return model, q, {"architecture": asdict(replace(SMALL, likelihood=likelihood))}

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    model, q, config = begun("nothing")
    with pytest.raises(KeyboardInterrupt):
        fit(model, q, bits(), Settings(epochs=2), out=tmp_path, config=config, checkpoint_seconds=0, progress=stop)
    model, q, config = begun(change)
    if change == "nothing":
        assert len(fit(model, q, bits(), Settings(epochs=2), out=tmp_path, config=config)) == 2
        return
    with pytest.raises(ValueError, match="holds a run of other networks, or of another frozen part"):
        fit(model, q, bits(), Settings(epochs=2), out=tmp_path, config=config)


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    """A model that is frozen while it is in training mode: its BatchNorm does not move, and its mode comes back."""
    batchnorm = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6))
    model = DecoderModel(batchnorm.requires_grad_(False), "bernoulli", 2).train()
    _, q = build(SMALL, seed=3)
    before = [value.clone() for value in model.state_dict().values()]
    fit(model, q, bits(), Settings(epochs=2))
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert all(module.training for module in model.modules())


def test_half_precision_networks_are_kept(tmp_path: Path) -> None:
    model, q = build(SMALL, seed=3)
    fit(model.bfloat16(), q.bfloat16(), bits(), Settings(epochs=1), out=tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_patience_keeps_the_best_epoch_of_the_held_out_data(tmp_path: Path) -> None:
    """A wild learning rate after epoch 4 makes all later epochs worse."""
    x, heldout = bits(60), bits(40, seed=1)
    settings = Settings(
        epochs=30, batch_size=10, schedule=lambda epoch, epochs: 1.0 if epoch <= 4 else 3000.0, patience=3
    )
    model, q = build(SMALL, seed=3)
    record = fit(model, q, x, settings, heldout=heldout, out=tmp_path / "run", checkpoint_seconds=0)
    held = [e.heldout_elbo for e in record]
    best = max(range(len(held)), key=lambda i: held[i] or 0.0) + 1
    assert best <= 5
    assert len(record) == best + 3
    generator, total = seeded(0, "heldout"), 0.0
    for batch in heldout.split(10):
        z, log_q = q.eval()(batch).rsample_and_log_q(normal((1, 10, 2), generator, batch))
        total += (model.eval().log_likelihood(batch, z) + model.log_prior(z) - log_q).sum().item()
    assert held[best - 1] == pytest.approx(total / 40)
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (training["epochs_done"], training["epoch_kept"]) == (best + 3, best)


def test_patience_waits_for_the_end_of_the_warm_up() -> None:
    """The best epoch lies in the warm-up, which is no reason to stop in it."""
    settings = Settings(
        epochs=30, batch_size=10, schedule=lambda epoch, epochs: 1.0 if epoch <= 4 else 3000.0, patience=3, warmup=9
    )
    model, q = build(SMALL, seed=3)
    held = [e.heldout_elbo or 0.0 for e in fit(model, q, bits(60), settings, heldout=bits(40, seed=1))]
    assert held.index(max(held)) < 6
    assert len(held) == 9 + 3


@pytest.mark.parametrize("after", [3, 6])
def test_patience_survives_a_break(tmp_path: Path, after: int) -> None:
    x, heldout = bits(60), bits(40, seed=1)
    settings = Settings(
        epochs=30, batch_size=10, schedule=lambda epoch, epochs: 1.0 if epoch <= 4 else 3000.0, patience=3
    )

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise KeyboardInterrupt

    answers = []
    for out in (tmp_path / "whole", tmp_path / "run"):
        if out.name == "run":
            model, q = build(SMALL, seed=3)
            with pytest.raises(KeyboardInterrupt):
                fit(model, q, x, settings, heldout=heldout, out=out, checkpoint_seconds=0, progress=stop)
        model, q = build(SMALL, seed=3)
        answers.append((fit(model, q, x, settings, heldout=heldout, out=out), state(q, model)))
    assert answers[0][0] == answers[1][0]
    assert same(answers[0][1], answers[1][1])


def test_a_parameter_that_overflows_in_the_last_step_is_noticed() -> None:
    model, q = build(SMALL, seed=3)
    with pytest.raises(FloatingPointError, match="or a parameter is not finite"):
        fit(model, q, bits(), Settings(epochs=1, schedule=lambda epoch, epochs: math.inf))


def test_out_is_not_overwritten_and_progress_sees_every_epoch(tmp_path: Path) -> None:
    seen: list[Epoch] = []
    _, record = fresh(out=tmp_path / "run", progress=seen.append)
    assert tuple(seen) == record
    assert [e.epoch for e in record] == [1, 2, 3]
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a model already"):
        fresh(out=tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


ARCHITECTURES = {
    "diagonal": SMALL,
    "full": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="full"),
    "flow": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="flow"),
    "auxiliary": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="auxiliary"),
    "the paper's auxiliary": Architecture(
        n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="auxiliary-sigmoid"
    ),
    "iaf": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="iaf"),
    "nsf": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="nsf"),
    "maf": Architecture(n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), family="maf"),
    "8 bits": Architecture(
        n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), likelihood="discretized_logistic", scale="decoder"
    ),
    "shaped": Architecture(n_in=(2, 3), n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,)),
    "linear": Architecture(n_in=6, n_latent=2, encoder_hidden=(), decoder_hidden=()),
    "learned scale": Architecture(
        n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), likelihood="gaussian", scale="learned"
    ),
    "decoder scale": Architecture(
        n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), likelihood="gaussian", scale="decoder"
    ),
    "laplace": Architecture(
        n_in=6, n_latent=2, encoder_hidden=(5,), decoder_hidden=(4,), likelihood="laplace", scale=0.3
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trip_of_every_architecture(tmp_path: Path, name: str) -> None:
    model, q = build(ARCHITECTURES[name], seed=1)
    x = bits().reshape(-1, *np.atleast_1d(ARCHITECTURES[name].n_in).tolist())
    fit(model, q, x, Settings(epochs=1))
    config = {"architecture": asdict(ARCHITECTURES[name]), "note": "ümlaut"}
    save_model(tmp_path / "m", q, model, config)
    loaded, loaded_q, read = load_model(tmp_path / "m")
    assert same(state(loaded_q, loaded), state(q, model))
    assert read == json.loads(json.dumps(config))
    assert not loaded.training
    assert not loaded_q.training
    expected, found = (bounds.elbo(*pair, x, n_samples=3).values for pair in ((model, q), (loaded, loaded_q)))
    assert np.array_equal(expected, found)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    model, q = build(Architecture(), seed=1)
    config = {"architecture": asdict(Architecture())}
    for name, half in (("whole", False), ("half", True)):
        save_model(tmp_path / name, q, model, config, half)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert sizes["half"] < sizes["whole"] / (1.99 if torch.get_default_dtype() == torch.float32 else 3.9)
    loaded, loaded_q, _ = load_model(tmp_path / "half")
    for a, b in zip(state(loaded_q, loaded), state(q, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_every_family_is_among_the_architectures() -> None:
    assert {a.family for a in ARCHITECTURES.values()} == set(family_names())
    assert {a.likelihood for a in ARCHITECTURES.values()} <= set(likelihoods.__all__)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    model, q = build(SMALL, seed=1)
    config = {"architecture": asdict(SMALL)}
    save_model(tmp_path, q, model, config)
    old = state(q, model)
    fit(model, q, bits(), Settings(epochs=1, seed=0))

    def full(*arguments: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="no space left"):
        save_model(tmp_path, q, model, config)
    loaded, loaded_q, _ = load_model(tmp_path)
    assert same(state(loaded_q, loaded), old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, q = build(SMALL, seed=1)
    save_model(tmp_path / "m", q, model, {"architecture": asdict(SMALL)})
    return tmp_path / "m"


def rewrite(folder: Path, **changes: Any) -> None:
    config = {"architecture": asdict(SMALL) | changes}
    (folder / "config.json").write_text(json.dumps(config))


def test_folders_that_are_no_model_are_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            load_model(saved)
        assert str(saved) in str(caught.value) or "architecture" in str(caught.value)
        assert "\n" not in str(caught.value)

    rewrite(saved, encoder_hidden=[7])
    refused(ValueError, r"q.net.1.weight should have shape \(7, 6\); got \(5, 6\)")
    rewrite(saved, encoder_hidden=[])
    refused(ValueError, "does not fit the networks: q.net.3")
    rewrite(saved, family="cauchy")
    refused(ValueError, "a family of .*'diagonal'.*got 'mlp' and 'cauchy'")
    rewrite(saved, n_in="6")
    refused(ValueError, "sizes must be positive integers")
    rewrite(saved, depth=3)
    refused(ValueError, r"unknown entries \['depth'\]")
    rewrite(saved, likelihood="gaussian")
    refused(ValueError, "gaussian needs scale")
    (saved / "config.json").write_text("[]")
    refused(ValueError, "expected a mapping; got a list")
    (saved / "config.json").write_text("{}")
    refused(ValueError, "no `architecture`")
    (saved / "config.json").write_text("{")
    refused(ValueError, "not JSON")
    rewrite(saved)
    whole = (saved / "model.safetensors").read_bytes()
    for kept in (0, 7, 100, len(whole) - 1):
        (saved / "model.safetensors").write_bytes(whole[:kept])
        refused(ValueError, "damaged, or not a safetensors file")
    (saved / "model.safetensors").unlink()
    refused(FileNotFoundError, "no model.safetensors there")
    with pytest.raises(ValueError, match="this is a file"):
        save_model(saved / "config.json", nn.Linear(1, 1), None, {})


# ---- the shipped demo


@pytest.fixture(scope="session")
def demo_config() -> dict[str, Any]:
    folder = Path(er.__file__).parent / "assets" / "fashion-mnist"
    return json.loads((folder / "config.json").read_text())


def test_the_demo_is_what_its_config_says(demo_config: dict[str, Any]) -> None:
    model, q = demo_model()
    assert demo_config["architecture"] == json.loads(json.dumps(asdict(Architecture())))
    assert sum(p.numel() for p in (*q.parameters(), *model.parameters())) == 217_300 + 207_984
    assert Path(demo_config["command"].split()[1]).name == "make_demo_assets.py"
    for name, split in (("train", "train"), ("heldout", "test")):
        estimate = bounds.elbo(model, q, demo_images()[name], n_samples=16)
        recorded = demo_config["elbo"][split]
        assert_close_z(estimate.mean, recorded["mean"], math.hypot(estimate.se, recorded["se"]))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_recorded_elbo_of_the_demo_is_its_elbo(demo_config: dict[str, Any], split: str) -> None:
    recorded = demo_config["elbo"][split]
    try:
        x = binarize(fashion_mnist(split))[: recorded["n"]]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model, q = demo_model()
    estimate = bounds.elbo(model, q, x, n_samples=recorded["n_samples"], seed=recorded["seed"])
    both = math.sqrt(2) * estimate.mc_se  # it was recorded with as many draws of other noise
    assert abs(estimate.mean - recorded["mean"]) < 5 * both


def test_unknown_shipped_models_are_named() -> None:
    with pytest.raises(ValueError, match="no shipped model is named 'cifar'; there is fashion-mnist"):
        shipped("cifar")
