"""Types and groups of options that several commands share, and the command line that repeats a call."""

import inspect
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

__all__ = [
    "Binarize", "DataChoice", "FamilyName", "LearningRateName", "NO_CHOICE", "Switch", "command_of", "flattened",
]  # fmt: skip

Binarize: TypeAlias = Literal["threshold", "stochastic", "gray", "gray256", "none"]
FamilyName: TypeAlias = Literal["diagonal", "full", "flow", "auxiliary", "auxiliary-sigmoid", "iaf", "nsf", "maf"]
LearningRateName: TypeAlias = Literal["constant", "stepped", "cosine"]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
flattened = Parameter(name="*")  # the fields of a group are options of the command


@flattened
@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """What a model is measured on.

    Attributes:
        data: Name of a data set (mnist, fashion-mnist, cifar10), or a file that holds an array with one datum per row
            (.npy, .npz, .safetensors, .pt). By default, the sets that the factory returns, or the data set on which
            the model in the folder was trained.
        split: Measure only this one of the sets, such as test.
        binarize: What gray pixels from 0 to 255 become. threshold: 0 or 1, cut at one half; stochastic: 0 or 1, drawn
            once; gray: pixel / 255; gray256: pixel / 256. By default, a data set is treated as in the model's
            training, or as suits its likelihood, and arrays of your own are used as they are.
        data_dir: Folder of the data set's files. It is looked in before the usual places.
    """

    data: str | None = None
    split: str | None = None
    binarize: Binarize | None = None
    data_dir: Path | None = None


NO_CHOICE = DataChoice()


def command_of(
    name: str, function: Callable[..., Any], given: Mapping[str, Any], without: Collection[str] = ()
) -> str:
    """Return the command line that repeats a call of a command's function.

    It holds the positional arguments, and options that differ from their default, but those of `without`.
    """
    words, options = ["elbowroom", name], []
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            words.append(str(given[key]))
        elif is_dataclass(parameter.default):
            options += [(f.name, getattr(given[key], f.name), f.default) for f in fields(parameter.default)]
        elif key not in without:
            options.append((key, given[key], parameter.default))
    for key, value, default in options:
        if value != default:
            text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
            words += [f"--{key.replace('_', '-')}", *([] if value is True else [text])]
    return shlex.join(words)
