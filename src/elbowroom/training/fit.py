r"""Train encoder and decoder together by stochastic gradients of a bound, and resume where a run was killed.

    maximize   mean over x of   E_q[ log p(x|z) + b (log p(z) - w log q(z|x)) ],   w = min(1, epoch / warmup)

b is `kl_weight`; with b = 1 and w = 1 this is the ELBO. The warm-up anneals the entropy alone, as in Cremer, Li and
Duvenaud 2018: it pulls q towards the mode of the posterior, less so in every epoch (counted from 1). Annealing "kl"
weights the whole of log p(z) - log q instead (Bowman et al. 2016). Objective "iwae" is
log (1/K) sum_k p(x, z_k) / q(z_k|x) (Burda, Grosse and Salakhutdinov 2015). The optimizer is Adam with eps 1e-4. The
order of the data and the noise of an epoch come from `seeded(seed, "train", epoch)`, so a checkpoint between two epochs
is all that a run needs to resume.
"""

from __future__ import annotations  # signatures in help() then show types by their names

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Data, MapStyle, Rows, as_data, forked, move, n_data, normal, read_rows, seeded
from ..evidence import log_weights
from ..models import LatentModel, evaluating
from .checkpoints import TrainingFolder, TrainingState
from .settings import ADAM_EPS, Epoch, Settings, learning_rate_factor
from .team import Team
from .weight_files import modules_by_prefix

__all__ = ["adam", "fit", "run_epoch", "step_of"]

Step = Callable[[Rows, Tensor, Tensor], tuple[Tensor, Tensor]]


def fit(
    model: LatentModel,
    q: nn.Module,
    x: Data,
    settings: Settings,
    *,
    heldout: Data | None = None,
    out: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    checkpoint_seconds: float = 30.0,
    half: bool = False,
    keep: Collection[int] = (),
    progress: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train, in place, those parameters of `q` and `model` that require a gradient.

    To train q alone, freeze the model (`requires_grad_(False)`); it is then in evaluation mode during training. The
    global random state and the modes of the modules are left as they were, also after an error.

    Under torchrun, once `torch.distributed.init_process_group` was called, each process computes its share of every
    batch, and the result is that of one process but for rounding. All must call it with the same arguments; the first
    writes the files.

    Args:
        model: a `LatentModel`.
        q: a posterior.
        x: N data (tensor, mapping, map-style dataset).
        settings: the settings of the run.
        heldout: data whose ELBO is measured after each epoch, with the same noise each time; never use the test set.
        out: a folder for `config.json` with `config` and the settings, `epochs.jsonl` with a line for each epoch,
            `checkpoint.safetensors` during the run and `model.safetensors` at its end. If it holds a checkpoint of the
            same run, that run is resumed, and ends in the same parameters as without the break.
        config: entries of `config.json`, such as "architecture".
        checkpoint_seconds: least time in seconds between two checkpoints, which are written between epochs.
        half: write the model in float16; the parameters in memory are not changed.
        keep: epochs, counted from 1, after which the model is kept as well, each in a folder such as `epoch-30` in
            `out`, which `load_model` reads.
        progress: called with each `Epoch`.
    Returns:
        All epochs of the run, including those before it was resumed.
    Raises:
        KeyboardInterrupt: the user's, once the last whole epoch is saved in `out`.
        FloatingPointError: an epoch ended with a value that is not finite. The parameters, in memory and in the
            checkpoint, are then those of the last good epoch.
        ValueError: nothing to train, patience without held-out data, a folder that holds something else, or an epoch to
            keep that there is not, or no folder for it.
    """
    modules = modules_by_prefix(q, model)
    parameters = _trainable(*modules.values())
    if not parameters:
        raise ValueError("nothing to train: no parameter of q or model requires a gradient")
    _refuse_unfit(settings, heldout, keep, out)
    data, held_out = as_data(x), None if heldout is None else as_data(heldout)
    if isinstance(data, Tensor | Mapping):
        data = move(data, parameters[0].device, parameters[0].dtype)
    state = TrainingState(modules, adam(parameters, settings), settings)
    team = Team()
    folder = None if out is None or team.rank else TrainingFolder(Path(out), state, data, config or {}, keep, half)
    team.agree_on(state)
    step = step_of(model, q, settings)
    n_noise = _noise_size(q, data, parameters[0])
    written = time.monotonic()
    trained = [part for part in modules.values() if _trainable(part)]
    frozen = [part for part in (q, model) if not any(part is other for other in trained)]
    with evaluating(*frozen), _training(trained):
        before, n_before = state.tensors(copy=True), len(state.done)
        try:
            while not state.ended:
                before, n_before = state.tensors(copy=True), len(state.done)
                metrics = run_epoch(step, data, state.optimizer, n_noise, n_before + 1, settings)
                if held_out is not None and _finite(metrics, parameters):
                    elbo = _heldout_elbo(model, q, held_out, n_noise, settings, parameters[0])
                    metrics = replace(metrics, heldout_elbo=elbo)
                if not _finite(metrics, parameters):
                    state.load(before)
                    raise FloatingPointError(_stopped(metrics, state, folder))
                state.record(metrics)
                if folder is not None:
                    folder.append(metrics)
                    if time.monotonic() - written >= checkpoint_seconds and not state.ended:
                        folder.checkpoint()
                        written = time.monotonic()
                if progress is not None:
                    progress(metrics)
        except KeyboardInterrupt:
            if len(state.done) == n_before:  # in the middle of an epoch
                state.load(before)
            raise KeyboardInterrupt(_interrupted(state, folder)) from None
        state.load_best()
    if folder is not None:
        folder.finish()
    return tuple(state.done)


def _refuse_unfit(settings: Settings, heldout: Data | None, keep: Collection[int], out: str | Path | None) -> None:
    """Raise ValueError for settings that ask for what is not given."""
    if settings.patience and heldout is None:
        raise ValueError(f"patience {settings.patience} needs heldout data to stop by; got none")
    if beyond := [epoch for epoch in keep if not 1 <= epoch <= settings.epochs]:
        raise ValueError(f"keep: expected epochs from 1 to {settings.epochs}; got {beyond[0]}")
    if keep and out is None:
        raise ValueError("keep: the models of epochs are kept in the folder `out`; got none")


# ---- one epoch


def run_epoch(
    step: Step,
    x: Rows | MapStyle,
    optimizer: torch.optim.Optimizer,
    n_noise: int,
    epoch: int,
    settings: Settings,
    team: Team | None = None,
) -> Epoch:
    """Train for one pass over the data. Nothing is read back from the device before its end.

    Args:
        step: what `step_of` returns.
        x: N data.
        optimizer: its parameters are trained.
        n_noise: E, how many standard normals make one z.
        epoch: number of the epoch, counted from 1.
        settings: the settings of the run.
        team: the processes that share each batch; None for this one alone.
    Returns:
        The `Epoch`, with means over the data in nats.
    """
    start, team = time.perf_counter(), Team() if team is None else team
    like = optimizer.param_groups[0]["params"][0]
    rate = settings.learning_rate * learning_rate_factor(settings.schedule, epoch, settings.epochs)
    optimizer.param_groups[0]["lr"] = rate
    weight = torch.tensor(settings.weight(epoch), device=like.device, dtype=like.dtype)  # a number would be compiled in
    generator = seeded(settings.seed, "train", epoch, device=like.device)
    order = torch.randperm(n_data(x), generator=generator, device=like.device)
    sums = torch.zeros(3, dtype=torch.float64, device=like.device)
    with forked(generator.initial_seed(), like.device):  # for dropout and the like in a user's networks
        for index in order.split(settings.batch_size):
            noise = normal((settings.n_samples, len(index), n_noise), generator, like)
            rows, own = team.share(index, noise)
            optimizer.zero_grad(set_to_none=True)
            if len(rows):
                loss, terms = step(move(read_rows(x, rows), like.device, like.dtype), own, weight)
                loss.backward()
                sums += terms
            team.add_up(optimizer.param_groups[0]["params"], len(rows) / len(index))
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], settings.clip_norm)
            optimizer.step()
    objective, bound, log_likelihood = (team.total(sums) / n_data(x)).tolist()
    seconds = time.perf_counter() - start
    return Epoch(
        epoch=epoch,
        objective=objective,
        elbo=bound,
        log_likelihood=log_likelihood,
        learning_rate=rate,
        weight=settings.weight(epoch),
        seconds=seconds,
    )


def _heldout_elbo(
    model: LatentModel, q: nn.Module, x: Rows | MapStyle, n_noise: int, settings: Settings, like: Tensor
) -> float:
    """L[q] of held-out data with one sample each, in nats; the noise is that of every epoch, so that epochs compare.

    In batches of its own: `bounds.elbo` draws sixteen samples at a time.
    """
    generator = seeded(settings.seed, "heldout", device=like.device)
    total = torch.zeros((), dtype=torch.float64, device=like.device)
    with torch.no_grad(), evaluating(model, q):
        for index in torch.arange(n_data(x)).split(settings.batch_size):
            batch = move(read_rows(x, index), like.device, like.dtype)
            noise = normal((1, len(index), n_noise), generator, like)
            total += log_weights(model, q(batch), batch, noise).sum()
    return total.item() / n_data(x)


def step_of(model: LatentModel, q: nn.Module, settings: Settings) -> Step:
    """The function (batch of B data, noise (K, B, E), w) -> (loss, sums) of a training step.

    `loss` is the negative mean objective in nats, to be minimized; `sums` (3,) are the sums over the batch of
    objective, ELBO and log likelihood.
    """

    def step(batch: Rows, noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = q(batch).rsample_and_log_q(noise)
        log_likelihood, log_prior = model.log_likelihood(batch, z), model.log_prior(z, batch)  # weighted separately
        bound = log_likelihood + log_prior - log_q
        if settings.objective == "iwae":
            objective = torch.logsumexp(bound, 0) - math.log(len(bound))
        elif settings.annealing == "kl":
            objective = (log_likelihood + settings.kl_weight * weight * (log_prior - log_q)).mean(0)
        else:
            objective = (log_likelihood + settings.kl_weight * (log_prior - weight * log_q)).mean(0)
        terms = torch.stack([objective.sum(), bound.mean(0).sum(), log_likelihood.mean(0).sum()])
        return -objective.mean(), terms.detach()

    return torch.compile(step, dynamic=False) if settings.compiled else step


def _noise_size(q: nn.Module, x: Rows | MapStyle, like: Tensor) -> int:
    """E, from an answer of q to two data."""
    with torch.no_grad(), evaluating(q):
        return q(move(read_rows(x, torch.arange(min(2, n_data(x)))), like.device, like.dtype)).noise_size


def adam(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Adam:
    """Adam with the paper's eps, 1e-4, in a fused kernel where torch has one."""
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.Adam(parameters, lr=settings.learning_rate, eps=ADAM_EPS, fused=fused)


def _trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """Each parameter once, though modules may share it."""
    return [p for p in dict.fromkeys(p for m in modules for p in m.parameters()) if p.requires_grad]


@contextmanager
def _training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules in training mode; afterwards back in their modes and without gradients."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in before:
        part.train()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
            part.zero_grad(set_to_none=True)


def _finite(metrics: Epoch, parameters: list[nn.Parameter]) -> bool:
    sums = [p.detach().sum() for p in parameters]  # nan and inf stay what they are in a sum
    return math.isfinite(metrics.objective + metrics.elbo) and bool(torch.stack(sums).isfinite().all())


def _interrupted(state: TrainingState, folder: TrainingFolder | None) -> str:
    """Save what is done, and say so."""
    after = f"after epoch {len(state.done)} of {state.settings.epochs}"
    if folder is None or not state.done:
        return f"{after}; nothing was saved"
    folder.checkpoint()
    return f"{after}, which is saved in {folder.path}; run the same command again to resume"


def _stopped(metrics: Epoch, state: TrainingState, folder: TrainingFolder | None) -> str:
    """Save what is done, and say what is wrong."""
    saved = ""
    if folder is not None and state.done:
        folder.checkpoint()
        saved = f", saved in {folder.path}"
    return (
        f"training stopped in epoch {metrics.epoch}: its objective, {metrics.objective}, or a parameter is "
        f"not finite; the parameters are those of epoch {metrics.epoch - 1}{saved}. Look for bad values in "
        f"the data, or lower learning_rate ({state.settings.learning_rate:g})"
    )
