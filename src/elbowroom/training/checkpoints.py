"""Files that a training run writes as it goes on, so that one that was killed resumes and ends in the same parameters.

    config.json             the caller's config and the settings
    epochs.jsonl            a line for each epoch
    checkpoint.safetensors  during the run: parameters, Adam's moments, the best parameters, the epochs so far
    model.safetensors       at the end of the run, in place of the checkpoint
    epoch-30/               the model after that epoch, a folder of its own

The seeds of an epoch depend on its number alone (`fit`), so a run that resumes from a checkpoint ends in the same
parameters as one that was never stopped.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import PARTIAL_SUFFIX, MapStyle, Rows, digest_of, write_atomically
from .settings import Epoch, Settings
from .weight_files import (
    CHECKPOINT,
    CONFIG,
    WEIGHTS,
    load_state,
    read_tensors,
    refuse_file,
    state_of,
    to_half,
    write_config,
    write_tensors,
)

__all__ = ["TrainingFolder", "TrainingState", "read_epochs"]

EPOCHS = "epochs.jsonl"


class TrainingState:
    """The state from which the next epoch starts.

    Attributes:
        modules: the networks by prefix.
        optimizer: Adam, with its moments.
        settings: the settings of the run.
        done: the epochs that are done.
        best: a copy of the best parameters so far; empty without `settings.patience`.
        best_epoch: the epoch of `best`, counted from 1; 0 without one.
    """

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Adam, settings: Settings) -> None:
        self.modules, self.optimizer, self.settings = modules, optimizer, settings
        self.done: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or the held-out ELBO has not risen for too long after the warm-up."""
        patience, n_done = self.settings.patience, len(self.done)
        waited = n_done - max(self.best_epoch, self.settings.warmup)
        return n_done >= self.settings.epochs or (patience > 0 and waited >= patience)

    def record(self, metrics: Epoch) -> None:
        """Add an epoch that is done.

        With `settings.patience`, its parameters are kept as the best if its held-out ELBO is the highest so far.
        """
        self.done.append(metrics)
        elbos = [-math.inf if e.heldout_elbo is None else e.heldout_elbo for e in self.done]
        if self.settings.patience and elbos[-1] == max(elbos):
            self.best_epoch = metrics.epoch
            self.best = {name: value.clone() for name, value in state_of(self.modules).items()}

    def load_best(self) -> None:
        """Copy the best parameters, if there are any, into the modules."""
        if self.best:
            load_state(self.modules, self.best)

    def tensors(self, copy: bool = False) -> dict[str, Tensor]:
        """The state as tensors by name, with the prefixes "q.", "model.", "adam.INDEX." and "best.".

        With `copy` they are copies, without those under "best.".
        """
        tensors = dict(state_of(self.modules))
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        if copy:
            return {name: value.clone() for name, value in tensors.items()}
        return tensors | {f"best.{name}": value for name, value in self.best.items()}

    def load(self, tensors: Mapping[str, Tensor], path: Path | None = None) -> None:
        """Restore what `tensors` returned.

        Raises:
            ValueError: a name or a shape does not fit the networks; `path` is the file that the message names.
        """
        groups: dict[str, dict[str, Tensor]] = {"adam": {}, "best": {}, "": {}}
        for name, value in tensors.items():
            head, _, rest = name.partition(".")
            groups[head if head in groups else ""][rest if head in groups else name] = value
        load_state(self.modules, groups[""], path)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["adam"].items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.best = groups["best"] or self.best


class TrainingFolder:
    """The folder of a run: its config, a line for each epoch, and a checkpoint until the run ends, then the model.

    A folder that holds a checkpoint of the same run brings `state` back to it.

    Args:
        keep: epochs after which the model is kept, besides the last.
        half: write models in float16.
    Raises:
        ValueError: `path` is a file, or holds a model or the checkpoint of another run, or of one that is past an epoch
            of `keep` and did not keep it.
    """

    def __init__(
        self, path: Path, state: TrainingState, x: Rows | MapStyle, config: Mapping[str, Any],
        keep: Collection[int] = (), half: bool = False,
    ) -> None:  # fmt: skip
        self.path, self.state, self._keep, self._half = path, state, keep, half
        self.identity = {
            "settings": json.dumps(state.settings.to_json(), sort_keys=True),
            "data": digest_of(x),
            "networks": _networks(state.modules, config.get("architecture")),
        }
        refuse_file(path)
        if (path / WEIGHTS).exists():
            raise ValueError(f"{path}: holds a model already; train into a new folder, or remove this one")
        self.config = {**config, "training": state.settings.to_json()}
        for cut in path.rglob(f".*{PARTIAL_SUFFIX}"):  # left by a kill in the middle of a write
            cut.unlink()
        if (path / CHECKPOINT).exists():
            self._resume()
        else:  # what a run left that was killed before its first checkpoint
            for left in (path / EPOCHS, *path.glob(f"epoch-*/{WEIGHTS}"), *path.glob(f"epoch-*/{CONFIG}")):
                left.unlink(missing_ok=True)

    def append(self, metrics: Epoch) -> None:
        """Log an epoch that is done, and keep its model if asked for. The folder is made with the first one."""
        if metrics.epoch == 1:
            self._write_config()
        with (self.path / EPOCHS).open("a", encoding="utf-8") as lines:
            lines.write(_line(metrics))
        if metrics.epoch in self._keep:
            self._write_model(_of_epoch(self.path, metrics.epoch), metrics.epoch)

    def checkpoint(self) -> None:
        """Write the checkpoint and the config."""
        epochs = json.dumps([asdict(epoch) for epoch in self.state.done])
        notes = self.identity | {"epochs": epochs, "best_epoch": str(self.state.best_epoch)}
        write_tensors(self.path / CHECKPOINT, self.state.tensors(), notes)
        self._write_config()

    def finish(self) -> None:
        """Write the config, then the model in place of the checkpoint."""
        self._write_model(self.path, self._epoch_kept)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    @property
    def _epoch_kept(self) -> int:
        return self.state.best_epoch or len(self.state.done)

    def _write_model(self, folder: Path, epoch: int) -> None:
        """The model as it is in memory, which is that after `epoch`."""
        write_config(folder, self._config(epoch))
        state = state_of(self.state.modules)
        write_tensors(folder / WEIGHTS, to_half(state) if self._half else state)

    def _write_config(self) -> None:
        write_config(self.path, self._config(self._epoch_kept))

    def _config(self, epoch: int) -> dict[str, Any]:
        """The caller's config, the settings, how many epochs were done, and of which one the model is."""
        done = {"epochs_done": len(self.state.done), "epoch_kept": epoch}
        return {**self.config, "training": {**self.config["training"], **done}}

    def _resume(self) -> None:
        """Go back to the checkpoint, and to the epochs whose work it holds."""
        tensors, notes = read_tensors(self.path / CHECKPOINT)
        if notes.get("data") != self.identity["data"]:
            raise ValueError(f"{self.path}: holds a run on other data; train into a new folder, or remove this one")
        if notes.get("networks") != self.identity["networks"]:
            raise ValueError(
                f"{self.path}: holds a run of other networks, or of another frozen part; train into a new folder, or "
                "remove this one"
            )
        before, now = json.loads(notes["settings"]), self.state.settings.to_json()
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{self.path}: holds a run with {name} {before.get(name)}, not {now[name]}; resume with the former "
                    "value, or train into a new folder"
                )
        self.state.load(tensors, self.path / CHECKPOINT)
        self.state.done = [Epoch(**entries) for entries in json.loads(notes["epochs"])]
        self.state.best_epoch = int(notes["best_epoch"])
        for epoch in self._keep:
            if epoch <= len(self.state.done) and not (_of_epoch(self.path, epoch) / WEIGHTS).exists():
                raise ValueError(
                    f"{self.path}: this run is past epoch {epoch} and did not keep its model; resume it without that "
                    "epoch, or train into a new folder"
                )
        write_atomically(self.path / EPOCHS, "".join(map(_line, self.state.done)).encode())


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Read the epochs of a run from its log, with numbers to six significant figures."""
    return tuple(Epoch(**json.loads(line)) for line in (path / EPOCHS).read_text(encoding="utf-8").splitlines())


def _of_epoch(path: Path, epoch: int) -> Path:
    """The folder of the model after an epoch."""
    return path / f"epoch-{epoch}"


def _line(epoch: Epoch) -> str:
    """An epoch as a line of the log, numbers to six figures."""
    entries = asdict(epoch)
    rounded = {key: float(f"{value:.6g}") for key, value in entries.items() if isinstance(value, float)}
    return json.dumps(entries | rounded) + "\n"


def _networks(modules: Mapping[str, nn.Module], architecture: object) -> str:
    """SHA-256 of the names of what a run trains, of what it keeps frozen, and of the caller's architecture."""
    trained: list[str] = []
    frozen: dict[str, Tensor] = {}
    for part, module in modules.items():
        own = {name for name, p in module.named_parameters() if p.requires_grad}
        trained += sorted(f"{part}.{name}" for name in own)
        named = module.named_parameters() if own else module.state_dict().items()  # a trained part's buffers move
        frozen |= {f"{part}.{name}": value.detach() for name, value in named if name not in own}
    described = json.dumps(architecture, sort_keys=True, default=str)
    return hashlib.sha256(repr((trained, digest_of(frozen), described)).encode()).hexdigest()
