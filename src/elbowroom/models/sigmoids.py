"""The logits behind probabilities: the input of the last sigmoid of a decoder, recorded while it runs.

In single precision a probability is exactly 1 from a logit of 17 on, and a pixel that is 0 there then has log p = -inf.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["RecordedSigmoids"]

SIGMOIDS = {torch.sigmoid, Tensor.sigmoid, torch.special.expit, torch.nn.functional.sigmoid}


class RecordedSigmoids(TorchFunctionMode):
    """A context that records the sigmoids that are computed in it, whether by modules, functions or methods."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if func in SIGMOIDS and args and isinstance(output, Tensor):
            self._pairs.append((output, args[0]))
        return output

    def logits_of(self, probs: object) -> Tensor | None:
        """The input of the sigmoid of which `probs` is the output, or a view of all of it; None if there is none."""
        for output, logits in reversed(self._pairs):
            if output is probs:
                return logits
            if isinstance(probs, Tensor) and _is_view_of_all(probs, output):
                return logits.reshape(probs.shape)
        return None


def _is_view_of_all(view: Tensor, whole: Tensor) -> bool:
    """Whether a tensor has the same numbers in the same order and at the same place in memory as another one."""
    if view.numel() != whole.numel() or not (view.is_contiguous() and whole.is_contiguous()):
        return False
    try:
        return view.dtype == whole.dtype and view.data_ptr() == whole.data_ptr()
    except RuntimeError:  # tensors without memory of their own, such as those of torch.func
        return False
