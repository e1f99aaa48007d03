"""Settings of a training run, its learning rate and warm-up weight in each epoch, and the record of an epoch."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

__all__ = ["ADAM_EPS", "Epoch", "LearningRateSchedule", "Settings", "entropy_weight", "learning_rate_factor"]

ADAM_EPS = 1e-4
LearningRateSchedule: TypeAlias = str | Callable[[int, int], float]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The record of one epoch: means over the data in nats, taken while the parameters changed, so not an evaluation.

    Attributes:
        epoch: number of the epoch, counted from 1.
        objective: the objective that was maximized.
        elbo: the ELBO.
        log_likelihood: E_q[log p(x|z)].
        learning_rate: learning rate of the epoch.
        weight: the warm-up weight w.
        heldout_elbo: L[q] of the held-out data at the epoch's end, with one sample each; None without such data.
        seconds: time of the pass over the training data; `==` ignores it.
    """

    epoch: int
    objective: float
    elbo: float
    log_likelihood: float
    learning_rate: float
    weight: float
    heldout_elbo: float | None = None
    seconds: float = field(compare=False, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What defines a training run, apart from the model and the data.

    Attributes:
        epochs: number of epochs.
        seed: seed of the order of the data and of all noise.
        batch_size: data in a step.
        learning_rate: learning rate of Adam.
        schedule: "constant", "stepped", "cosine", or a function (epoch, epochs) -> factor of `learning_rate`.
        objective: "elbo", or "iwae" with `n_samples` > 1.
        n_samples: K, the number of draws of z for each datum.
        annealing: what the warm-up weights: "entropy", "kl" or "none".
        warmup: epochs until the weight is 1.
        kl_weight: b, the beta of a beta-VAE.
        patience: stop when the held-out ELBO has not risen for so many epochs after the warm-up, and keep the best
            parameters; 0 trains to the end and keeps the last ones.
        clip_norm: largest norm of a step's gradient, which is scaled down to it; 0 for no limit. Two to four times the
            usual norm leaves ordinary steps alone, and keeps a rare spike from ruining a flow.
        compiled: compile the step with torch.compile: some 30 s, then a tenth faster, with other rounding.
    Raises:
        ValueError: a value that is out of range or unknown, or "iwae" with a `kl_weight` other than 1 or a warm-up.
    """

    epochs: int
    seed: int = 0
    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: LearningRateSchedule = "constant"
    objective: str = "elbo"
    n_samples: int = 1
    annealing: str = "entropy"
    warmup: int = 0
    kl_weight: float = 1.0
    patience: int = 0
    clip_norm: float = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("n_samples", 1), ("warmup", 0), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("learning_rate", "kl_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")
        if not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be finite and not negative; got {self.clip_norm}")
        for name, known in (("objective", ("elbo", "iwae")), ("annealing", ("entropy", "kl", "none"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.objective == "iwae" and (self.kl_weight != 1 or self.warmup):
            raise ValueError(
                f"objective iwae has no terms to weigh: it needs kl_weight 1 and warmup 0; got {self.kl_weight:g} and "
                f"{self.warmup}"
            )
        learning_rate_factor(self.schedule, 1, self.epochs)

    def weight(self, epoch: int) -> float:
        """The warm-up weight w in `epoch`, counted from 1."""
        return 1.0 if self.annealing == "none" else entropy_weight(epoch, self.warmup)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them, with the schedule by its name."""
        name = self.schedule if isinstance(self.schedule, str) else getattr(self.schedule, "__name__", "function")
        return asdict(self) | {"schedule": name, "adam_eps": ADAM_EPS}


def entropy_weight(epoch: int, warmup: int) -> float:
    """w = min(1, epoch / warmup), with epochs counted from 1; it is 1 without a warm-up."""
    return min(1.0, epoch / warmup) if warmup else 1.0


def learning_rate_factor(schedule: LearningRateSchedule, epoch: int, epochs: int) -> float:
    """The factor of the learning rate in `epoch`, one of 1..`epochs`. An unknown schedule raises a ValueError.

    "constant"  1
    "stepped"   10^(-i/7) for 3^i epochs, i = 0..7 (Burda, Grosse and Salakhutdinov 2015): exactly so for 3,280 epochs,
                stretched or shrunk in proportion for another number
    "cosine"    (1 + cos(pi (epoch - 1) / epochs)) / 2
    """
    if callable(schedule):
        return schedule(epoch, epochs)
    if schedule == "constant":
        return 1.0
    if schedule == "stepped":  # stage i starts after (3^i - 1) / 2 of the 3,280 epochs
        stage = sum((3**i - 1) * epochs <= 6560 * (epoch - 1) for i in range(1, 8))
        return 10 ** (-stage / 7)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
    raise ValueError(f'schedule must be "constant", "stepped", "cosine" or a function; got {schedule!r}')
