"""Randomness keyed by meaning: a generator is named by what it draws, not by when it is used.

seeded(seed, "ais", block, group)   ->  the same numbers for every caller, in any order, on any number of workers
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["BLOCK", "forked", "normal", "orthogonal", "seed_of", "seeded", "uniform"]

BLOCK = 50  # data that are computed together, and for all of which noise is drawn
CANDIDATES = 16  # lengths of each stratum, of which one is drawn


def seeded(seed: int, *keys: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state is a hash of `seed` and `keys`.

    >>> a, b = seeded(0, "elbo", 3), seeded(0, "elbo", 3)
    >>> bool((torch.randn(4, generator=a) == torch.randn(4, generator=b)).all())
    True
    """
    digest = hashlib.sha256(repr((int(seed), *keys)).encode()).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def seed_of(noise: Tensor) -> int:
    """A seed for foreign code, hashed from the first eight numbers of `noise`, so it depends on these draws alone.

    The bits of the numbers are not used as they are, because a generator may seed from the low 32, which are zero for
    numbers of single precision.
    """
    head = noise.flatten()[:8].double().cpu().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(head).digest()[:8], "little") >> 1


def normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor, data_axis: int | None = None) -> Tensor:
    """Standard normal noise of `shape` in the dtype and on the device of `like`.

    It is drawn on the generator's device in float32, which takes a fifth of the time, so float32 and float64 runs have
    the same noise. With a `data_axis` it is drawn for a whole block of data along this axis and cut, so that a datum's
    noise does not depend on how many data share its block.
    """
    whole = _of_a_block(shape, data_axis)
    noise = torch.randn(whole, generator=generator, dtype=torch.float32, device=generator.device)
    return _cut(noise, shape, data_axis).to(like)


def orthogonal(shape: tuple[int, int], n_sets: int, generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield draws (N, D) without end; averages over n_sets sets of D of them have little noise.

    Within each set the draws of one row are orthogonal and of equal length, so that the average of e e' over a set is
    a multiple of the identity. All rows share a random rotation, and differ by their own signs and lengths. The rows of
    one draw are not independent of each other.

    The lengths of n_sets successive sets are a stratified sample, so each draw of a row is N(0, I), and an average over
    the sets has little of the lengths' noise. A single set has the length sqrt(D) and none of that noise: the average
    of e e' is then the identity, and moments of fourth order are too small by 2 parts in D + 2.
    """
    n, d = shape
    while True:
        for length in _lengths(n, d, n_sets, generator, like):
            rotation, _ = torch.linalg.qr(normal((d, d), generator, like.double()))
            signs = 2.0 * (uniform((n, d), generator, like, data_axis=0) < 0.5) - 1.0
            for row in rotation:
                yield (row * signs * length[:, None]).to(like)


def _lengths(n: int, d: int, n_sets: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """The lengths (n_sets, N) of sets of draws in D dimensions: one from each of n_sets strata, in random order."""
    if n_sets == 1:
        return like.new_full((1, n), math.sqrt(d), dtype=torch.float64)
    many = normal((n_sets * CANDIDATES, n, d), generator, like.double(), data_axis=1).norm(dim=-1).sort(0).values
    picked = (CANDIDATES * uniform((n_sets, n), generator, like, data_axis=1)).long().clamp(max=CANDIDATES - 1)
    strata = uniform((n_sets, n), generator, like, data_axis=1).argsort(0)
    return many.gather(0, picked + CANDIDATES * strata)


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor, data_axis: int | None = None) -> Tensor:
    """Uniform noise on [0, 1) of `shape` in float64, on the device of `like`; `data_axis` is as in `normal`."""
    whole = _of_a_block(shape, data_axis)
    noise = torch.rand(whole, generator=generator, dtype=torch.float64, device=generator.device)
    return _cut(noise, shape, data_axis).to(like.device)


def _of_a_block(shape: tuple[int, ...], data_axis: int | None) -> tuple[int, ...]:
    """The shape with a whole block of data along `data_axis`, at least."""
    return tuple(max(size, BLOCK) if axis == data_axis else size for axis, size in enumerate(shape))


def _cut(noise: Tensor, shape: tuple[int, ...], data_axis: int | None) -> Tensor:
    return noise if data_axis is None else noise.narrow(data_axis, 0, shape[data_axis])


@contextmanager
def forked(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run foreign code that draws from the global generators: they are seeded inside and restored on leaving.

    Only the generators of the CPU and of `device` are touched; torch.manual_seed would seed every other device too.
    """
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
