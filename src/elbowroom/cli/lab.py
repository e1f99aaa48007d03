"""Where `elbowroom paper` measures the models of the zoo, and what it keeps of them."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import digest_of, write_atomically
from ..experiments import LADDERS, Experiment, NamedArrays, Scale, Trained
from ..measure import BlockKey
from ..models import DecoderModel
from ..posteriors import Amortized
from ..results import Gaps, RunError, load_gaps, slim
from ..scale import Crew, Report, WorkersError
from .early_start import start_method
from .measuring import measure_sets, refuse_other_runs, work_on_models
from .options import DataChoice
from .recipes import folder_of, train_models
from .request import Opened, Request, opened, sent
from .run_folders import alone, reserved
from .terminal import FactoryError, UserError, say, show_warning

__all__ = ["KEPT_ROWS", "ZooLab"]

KEPT_ROWS, RUNS = "data", "runs"  # folders below --out: rows that are kept, and runs that may go on
SETS = ("train", "heldout")
HELDOUT = "test"  # the set that is measured as held-out
ADVICE = "Or name another --out."
ORIGIN, WEIGHTS = "weights", "model.safetensors"  # of arrays that are kept: the checksum of this file
IMAGES = "images"  # the checksum of the images of which they were made; arrays of old have none


class ZooLab:
    """Measures models of the zoo, or reads what was measured of them.

    A model that was trained with seed 1 too is in a folder with "-seed-1" behind its name.
    """

    def __init__(
        self, scale: Scale, zoo: Path, out: Path, rows: Path | None, data_dir: Path | None, workers: int
    ) -> None:
        self.scale = scale
        self._zoo, self._out, self._rows, self._workers = zoo, out, rows, workers
        self._choice, self._seed = DataChoice(data_dir=data_dir), 0
        self._found: dict[str, Mapping[str, Gaps]] = {}
        self._seen: dict[tuple[str, str, bytes], tuple[str, NDArray[Any] | None]] = {}
        self._last: Opened | None = None

    def train_missing(self, models: Sequence[str]) -> None:
        """Train those of these models that are not in the zoo, unless this lab only reads rows."""
        if self._rows is None:
            folder = self._choice.data_dir
            train_models(models, self._zoo, self.scale.name, data_dir=folder, workers=self._workers)

    def further_trainings(self, experiment: Experiment) -> Iterator["ZooLab"]:
        """A lab for each further seed, up to the first of which there is too little to decide any claim."""
        for seed in count(1):
            lab = copy(self)
            lab._seed = seed
            if not any(lab.has(claim.models or experiment.models, experiment.takes) for claim in experiment.claims):
                return lab._say_what_lacks(experiment)
            yield lab

    def has(self, models: Sequence[str], takes: Sequence[str] = (LADDERS,)) -> bool:
        """As `experiments.Lab` says.

        Models of the first seed are always wanted, so that an error says which of them are missing.
        """
        folders = map(self._folder, models)
        return not self._seed or all(self._is_trained(each) or self._keeps(each, takes) for each in folders)

    def gaps(self, model: str) -> Mapping[str, Gaps]:
        """As `experiments.Lab` says."""
        return self.gaps_of([model])[model]

    def gaps_of(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Gaps]]:
        """As `experiments.Lab` says. A worker that finds nothing left of a model goes on with the next."""
        folders = {model: self._folder(model) for model in models}
        new = [folder for folder in folders.values() if folder not in self._found]
        read = [
            folder
            for folder in new
            if self._rows is not None or (self._kept_of(folder).is_dir() and not self._is_trained(folder))
        ]
        kept = {folder: self._read(folder) for folder in read}  # before hours are spent: what is missing ends all
        found = {**kept, **self._measured([folder for folder in new if folder not in read])}
        for folder in new:
            self._refuse_rows_of_other_images(folder, found[folder])
            self._found[folder] = found[folder]
        return {model: self._found[folder] for model, folder in folders.items()}

    def arrays(self, model: str, name: str, make: Callable[[Trained], NamedArrays]) -> NamedArrays:
        """As `experiments.Lab` says."""
        model = self._folder(model)
        if (found := self._arrays_kept(model, name)) is not None:
            return found
        trained, kept = self._trained(model), self._place_of_arrays(model, name)
        images = np.array(digest_of(trained.images))
        self._refuse_arrays_of_other_images(model, name, images)
        made = make(trained)
        content: dict[str, Any] = {**made, ORIGIN: self._origin(model), IMAGES: images}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, partial(np.savez_compressed, **content))
        return made

    def arrays_of(
        self, models: Sequence[str], name: str, make: Callable[[Trained], NamedArrays]
    ) -> Mapping[str, NamedArrays]:
        """As `experiments.Lab` says. Models are divided among workers."""
        missing = [model for model in models if self._arrays_kept(self._folder(model), name) is None]
        for folder in map(self._folder, missing):  # before hours are spent
            self._refuse_arrays_of_other_images(folder, name, np.array(digest_of(self._trained(folder).images)))
        places = [self._place_of_arrays(self._folder(model), name) for model in missing]
        n_workers = min(self._workers, len(missing))
        if n_workers > 1:
            for model, place in zip(missing, places, strict=True):
                if self._arrays_kept(self._folder(model), name) is None:  # nor made by another process meanwhile
                    place.unlink(missing_ok=True)  # of other weights

            def left(_: float) -> list[BlockKey]:
                return [(name, at) for at, place in enumerate(places) if not place.exists()]

            lab = copy(self)
            lab._found, lab._seen, lab._last = {}, {}, None
            with TemporaryDirectory(prefix="elbowroom-") as claims:
                job = partial(_make_arrays, lab, missing, name, make, Path(claims))
                with Crew(job, n_workers, start_method()) as crew:
                    try:
                        crew.work(name, left)
                    except WorkersError as error:
                        text = f"{name}: {error}. What is finished is kept"
                        raise (FactoryError(text, error.shown) if error.shown else UserError(text)) from None
        return {model: self.arrays(model, name, make) for model in models}

    def _place_of_arrays(self, folder: str, name: str) -> Path:
        return self._kept_of(folder) / f"{name}.npz"

    def _arrays_kept(self, folder: str, name: str) -> NamedArrays | None:
        """The arrays that are kept of a model, unless they are those of other weights.

        RunError if there are none, and no model of which they could be made.
        """
        kept, is_trained = self._place_of_arrays(folder, name), self._is_trained(folder)
        if not kept.exists():
            if self._rows is not None:
                raise RunError(f"{kept} does not exist; run elbowroom paper without --from first")
            if not is_trained:
                raise RunError(f"{kept} does not exist, and to make it {self._zoo / folder} is missing; train it again")
            return None
        with np.load(kept) as file:
            found = dict(file)
        origin, images = str(found.pop(ORIGIN)), found.pop(IMAGES, None)
        if is_trained and origin != self._origin(folder):
            return None
        self._refuse_arrays_of_other_images(folder, name, images)
        return found

    def _folder(self, model: str) -> str:
        return folder_of(model, self.scale.name, self._seed)

    def _is_trained(self, folder: str) -> bool:
        """Whether a model is in the zoo, and this lab may look at it."""
        return self._rows is None and (self._zoo / folder / WEIGHTS).exists()

    def _kept_of(self, folder: str) -> Path:
        """Where the rows and the arrays of a model are kept."""
        return (self._rows or self._out / KEPT_ROWS) / self.scale.name / folder

    def _keeps(self, folder: str, takes: Sequence[str]) -> bool:
        """Whether all of this is kept of a model."""
        wanted = [self._place_of_arrays(folder, name) for name in takes if name != LADDERS]
        if LADDERS in takes:
            wanted += [self._kept_of(folder) / name / "run.json" for name in SETS]
        return all(path.exists() for path in wanted)

    def _say_what_lacks(self, experiment: Experiment) -> None:
        """Say why a seed is left out of which some models are there."""
        lacking = [model for model in experiment.models if not self.has([model], experiment.takes)]
        if len(lacking) < len(experiment.models):
            say(
                f"{experiment.name}: seed {self._seed} is left out, since {self._folder(lacking[0])} is not in the "
                f"zoo, and not all of it is kept ({', '.join(experiment.takes)})"
            )

    def _origin(self, model: str) -> str:
        """Which weights they are."""
        return hashlib.sha256((self._zoo / model / WEIGHTS).read_bytes()).hexdigest()

    def _trained(self, model: str) -> Trained:
        it = self._opened(model)
        images = {_common(name): sample.x for name, sample in it.chosen.items() if isinstance(sample.x, Tensor)}
        assert isinstance(it.loaded.model, DecoderModel)
        assert isinstance(it.loaded.q, Amortized)
        return Trained(model=it.loaded.model, q=it.loaded.q, images=images)

    def _refuse_rows_of_other_images(self, model: str, found: Mapping[str, Gaps]) -> None:
        for name, gaps in found.items():
            if other := self._of_other_images(model, name, gaps.ids.tobytes(), gaps.fingerprint):
                raise UserError(f"{model} and {other} were measured on different images of {name}; measure both anew")

    def _refuse_arrays_of_other_images(self, model: str, name: str, images: NDArray[Any] | None) -> None:
        if other := self._of_other_images(model, name, b"", images):
            place = self._place_of_arrays(other, name)
            raise UserError(
                f"{name}: the images of {model} and of {other} differ, and they are compared. Remove {place}, where "
                "those of the other are kept, or name another --out"
            )

    def _of_other_images(self, model: str, name: str, ids: bytes, images: NDArray[Any] | None) -> str | None:
        """The model, if any, that saw other images of the same data set.

        Models of one data set are compared datum by datum, so data with the same ids must be the same data.
        """
        data = (model.split("-")[0], name, ids)
        first, before = self._seen.get(data, (model, None))
        if before is None:
            self._seen[data] = model, images
        return first if before is not None and images is not None and not np.array_equal(before, images) else None

    def _read(self, model: str) -> Mapping[str, Gaps]:
        return {name: load_gaps(self._kept_of(model) / name) for name in SETS}

    def _request(self, model: str) -> Request:
        if not (self._zoo / model / "config.json").exists():
            raise UserError(f"{self._zoo / model}: there is no such model. Name the folder of the models with --zoo")
        is_large = model.startswith("cifar")
        return Request(
            model=str(self._zoo / model), choice=self._choice, n=self.scale.n_large if is_large else self.scale.n,
            first=None, seed=0, plan=self.scale.plan, refine_on=None, refine_plan="standard", device=None,
            kl_weight=1.0, objective=None, weights=None, unfinished=False,
        )  # fmt: skip

    def _opened(self, model: str) -> Opened:
        self._last = opened(self._request(model), self._last)
        return self._last

    def _measured(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Gaps]]:
        """Measure models, and keep the rows of each set as soon as it is whole.

        The slowest stand last in tables. They are begun first, so that no worker waits for another's long block at the
        end.
        """
        asked = {model: self._opened(model) for model in reversed(models)}
        measurements = {
            f"{model}/{name}": each for model, it in asked.items() for name, each in it.measurements.items()
        }
        places = {each: self._out / RUNS / self.scale.name / each for each in measurements}
        data = {id(it.chosen): sent(it.chosen) for it in asked.values()}  # once, where several models share them
        job = partial(work_on_models, {model: (it.request, data[id(it.chosen)]) for model, it in asked.items()}, places)
        kept: dict[str, dict[str, Gaps]] = {model: {} for model in models}

        def keep(each: str, gaps: Gaps) -> None:
            model, _, name = each.rpartition("/")
            _say_gaps(each, gaps)
            kept[model][_common(name)] = self._kept(model, name, gaps)
            self._refuse_rows_of_other_images(model, kept[model])

        with ExitStack() as stack:
            stack.enter_context(reserved(places.values(), overwrite=False))
            refuse_other_runs(measurements, places, ADVICE)
            crew = stack.enter_context(Crew(job, self._workers, start_method()))
            measure_sets(measurements, places, crew=crew if self._workers > 1 else None, show=keep, advice=ADVICE)
        return kept

    def _kept(self, model: str, name: str, gaps: Gaps) -> Gaps:
        """Keep the rows of one set -> its gaps as they are kept, so that pages made of kept rows are the same.

        Another process that runs the same command is waited for while it saves them.
        """
        place, gaps = self._kept_of(model) / _common(name), slim(gaps)
        with alone(self._out / RUNS / self.scale.name / model / f"rows-{name}"):  # no lock stays beside rows
            if not _holds(place, gaps):
                gaps.save(place, overwrite=True)
        return gaps


def _make_arrays(
    lab: ZooLab, models: Sequence[str], name: str, make: Callable[[Trained], NamedArrays], claims: Path, report: Report
) -> None:
    """What a worker does: it computes the arrays of those models that no other has taken."""
    torch.set_num_threads(1)
    warnings.showwarning = show_warning
    for at, model in reversed(list(enumerate(models))):  # the slowest first, as in ZooLab
        try:
            (claims / f"{at}").touch(exist_ok=False)
        except FileExistsError:
            continue
        lab.arrays(model, name, make)


def _common(name: str) -> str:
    """The name of a set as the experiments have it."""
    return "heldout" if name == HELDOUT else name


def _holds(folder: Path, gaps: Gaps) -> bool:
    """Whether these gaps are saved there already."""
    try:
        return bool(load_gaps(folder) == gaps)
    except RunError:
        return False


def _say_gaps(name: str, gaps: Gaps) -> None:
    steps = (gaps.amortization, gaps.approximation)
    terms = ", ".join(f"{step.name} {step.mean:.2f} +- {step.se:.2f}" for step in steps)
    say(f"{name}, {len(gaps)} data: {terms}, log p(x) {gaps.log_evidence.mean:.2f}")
