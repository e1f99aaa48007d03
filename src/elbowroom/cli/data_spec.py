"""What the command line's --data names, read into sets of data, and which rows of them are measured.

    mnist             a data set by name: its training and its test images
    images.npy        an array of the user's; a .npz may hold one, or both of train and test
    (nothing)         the sets that a factory brings, or those that a folder's model was trained on

Gray pixels become data by a rule that has a name (`datasets.binarize`): the one asked for, that of the training, or
the one that suits the likelihood.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import MapStyle, Rows, as_data, n_data, read_rows, seeded
from ..datasets import DATASETS, SUFFIXES, array_names, binarize, load_array
from .model_spec import LoadedModel
from .options import Binarize, DataChoice
from .terminal import UserError

__all__ = ["Sample", "Sets", "open_sets", "read_data", "samples", "usual_rule"]

RULES = "threshold, stochastic, gray or gray256"


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Sets to measure.

    Attributes:
        sets: The data of each set, by its name.
        origin: Where they come from, as a saved run tells it.
        is_one_file: Whether there is one array of a file, whose only name is the file's.
        split: The only one of the sets that is measured; None for all.
        n_train: How many of the set "train" the model was trained on, from the first; None for all or for another set.
    """

    sets: Mapping[str, Rows | MapStyle]
    origin: Mapping[str, Any] = field(default_factory=dict)
    is_one_file: bool = False
    split: str | None = None
    n_train: int | None = None


@dataclass(frozen=True)
class Sample:
    """Data to measure, and the identity of each: its row number, counted on from one set to the next."""

    x: Rows | MapStyle
    ids: NDArray[np.int64]


def open_sets(loaded: LoadedModel, choice: DataChoice, name: str, seed: int) -> Sets:
    """The sets to measure: those of --data, else the factory's own, else those that the folder's model was trained on.

    `name` is the model's, for errors; `seed` that of pixels that are drawn.
    """
    if choice.data is None and loaded.sets:
        if choice.binarize is not None:
            raise UserError(f"--binarize {choice.binarize}: {name} brings data of its own, which are taken as they are")
        own = {key: as_data(x) for key, x in loaded.sets.items()}
        found = Sets(sets=own, origin={"name": None, "binarize": None})
    else:
        found = _named_sets(loaded, choice, name, seed)
    if choice.split is not None and choice.split not in found.sets:
        raise UserError(f"--split {choice.split}: expected one of {', '.join(found.sets)}")
    return replace(found, split=choice.split)


def samples(found: Sets, n: int | None = None, first: int | None = None, seed: int = 0) -> dict[str, Sample]:
    """Take from each set to measure a random sample of `n` rows, its first `first` rows, or all rows.

    Of the set "train" only those rows are taken on which the model was trained. A smaller sample with the same seed is
    the beginning of a larger one. The name of a set is part of the seed, unless it is only that of a file. Rows are
    counted on over all sets, those that are not measured too.
    """
    if n is not None and first is not None:
        raise UserError("--n and --first exclude each other: a random sample, or the first rows")
    chosen, offset = {}, 0
    for name, data in found.sets.items():
        if found.split in (None, name):
            generator = seeded(seed, "sample", "data" if found.is_one_file else name)
            total = (found.n_train if name == "train" else None) or n_data(data)
            chosen[name] = _sample(name, data, total, n, first, generator)
            chosen[name] = replace(chosen[name], ids=chosen[name].ids + offset)
        offset += n_data(data)
    return chosen


def _sample(
    name: str, data: Rows | MapStyle, total: int, n: int | None, first: int | None, generator: torch.Generator
) -> Sample:
    """Rows of one set, of its first `total`. UserError for a number that these are not."""
    wanted = first if n is None else n
    if wanted is None and total == n_data(data):
        return Sample(data, np.arange(total))
    wanted = total if wanted is None else wanted
    if not 1 <= wanted <= total:
        option = "--first" if n is None else "--n"
        raise UserError(f"{option} {wanted}: expected 1 to {total}, the number of data in {name}")
    rows = torch.arange(wanted) if n is None else torch.randperm(total, generator=generator)[:n]
    return Sample(read_rows(data, rows), rows.numpy())


def read_data(
    name: str, split: str, folder: Path | None = None, binarization: str | None = None, seed: int = 0
) -> torch.Tensor:
    """Read one split of a data set by name, or of a user's array by path, as floats.

    Pixels from 0 to 255 are converted by the rule `binarization`, which must be given. Pixels are the images of a named
    data set, and an array of uint8 with a value above 1. Any other array is used as it is; `binarization` is then None
    or "none".
    """
    images = DATASETS[name](split, folder) if name in DATASETS else _own_array(_file(name), split)
    rule = None if binarization == "none" else binarization
    if images.dtype == torch.uint8 and (name in DATASETS or int(images.max()) > 1):
        if rule is None:
            raise UserError(f"{name} holds pixels from 0 to 255; say with --binarize what they become: {RULES}")
        return binarize(images, rule, seed)
    if rule is not None:
        if images.dtype == torch.uint8:
            raise UserError(f"{name} holds no value above 1, so it is binary already: leave --binarize out")
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(f"{name} holds {kind}; --binarize takes pixels as uint8: save them so, or leave --binarize out")
    return images.to(torch.get_default_dtype())


def usual_rule(likelihood: str | None) -> Binarize | None:
    """What the pixels of a named data set become under a likelihood; None where the likelihood is not one of ours."""
    if likelihood in (None, "custom", "categorical"):
        return None
    return "threshold" if likelihood in ("bernoulli", "bernoulli_probs") else "gray"


def _named_sets(loaded: LoadedModel, choice: DataChoice, name: str, seed: int) -> Sets:
    """The sets of a data set or file that --data or the model's training names, under the rule of that training unless
    another is asked for.
    """
    before = loaded.trained_on
    spec = choice.data or before.get("name")
    if spec is None:
        raise UserError(f"--data is needed: {name} brings no data of its own")
    rule, is_known = choice.binarize, spec == before.get("name")
    if is_known:
        rule, seed = rule or before.get("binarize"), before.get("seed", 0)
    if choice.data is None and spec not in DATASETS and not Path(spec).is_file():
        raise UserError(f"--data is needed: {spec}, on which {name} was trained, is not there")
    is_one_file = False
    if spec in DATASETS:
        rule = rule or usual_rule(_likelihood(loaded))
        sets = {split: read_data(spec, split, choice.data_dir, rule, seed) for split in ("train", "test")}
    else:
        sets = _own_sets(_file(spec), rule, seed)
        is_one_file = "" in sets and not is_known
        sets = {split or ("train" if is_known else Path(spec).stem): x for split, x in sets.items()}
    origin: dict[str, Any] = {"name": spec, "binarize": rule}
    origin |= {"binarize_seed": seed} if rule == "stochastic" else {}
    n_train = before.get("n") if is_known and before.get("split") == "train" else None
    named = {key: as_data(x) for key, x in sets.items()}
    return Sets(sets=named, origin=origin, is_one_file=is_one_file, n_train=n_train)


def _likelihood(loaded: LoadedModel) -> str | None:
    return getattr(getattr(loaded.model, "likelihood", None), "name", None)


def _file(name: str) -> Path:
    """A file or folder by its path; UserError for what can only be meant as the name of a data set."""
    if not Path(name).suffix and not Path(name).exists():
        known = ", ".join(sorted(DATASETS))
        raise UserError(f"no data set is named {name}; there are {known}, and files ending in {', '.join(SUFFIXES)}")
    return Path(name)


def _own_sets(path: Path, rule: str | None, seed: int) -> dict[str, torch.Tensor]:
    """The sets of a user's file: the arrays named train and test, or its one array under the name "".

    Without a rule nothing is converted.
    """
    there = array_names(path)
    names: list[str] = [name for name in ("train", "test") if name in there] or [""]
    if rule not in (None, "none"):
        return {name: read_data(str(path), name or "train", None, rule, seed) for name in names}
    return {name: load_array(path, name=name or "x") for name in names}


def _own_array(path: Path, split: str) -> torch.Tensor:
    """The array of a user's file with the name of the split. For "train" it may be called x or be the only one."""
    names = array_names(path)
    if split in names or split == "train":
        return load_array(path, name=split if split in names else "x", pixels=True)
    raise UserError(f"{path} has no {split} set: a .npz with arrays named train and {split} has both")
