"""Randomness keyed by meaning: a generator is named by what it draws, not by when it is used.

seeded(seed, "ais", block, group)   ->  the same numbers for every caller, in any order, on any number of workers
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["forked", "normal", "orthogonal", "seed_of", "seeded", "uniform"]

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


def normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise of `shape` in the dtype and on the device of `like`.

    It is drawn on the generator's device in float64, so that float32 and float64 runs have the same noise.
    """
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).to(like)


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
            signs = 2.0 * (uniform((n, d), generator, like) < 0.5) - 1.0
            for row in rotation:
                yield (row * signs * length[:, None]).to(like)


def _lengths(n: int, d: int, n_sets: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """The lengths (n_sets, N) of sets of draws in D dimensions: one from each of n_sets strata, in random order."""
    if n_sets == 1:
        return like.new_full((1, n), math.sqrt(d), dtype=torch.float64)
    many = normal((n_sets * CANDIDATES, n, d), generator, like.double()).norm(dim=-1).sort(0).values
    picked = (CANDIDATES * uniform((n_sets, n), generator, like)).long().clamp(max=CANDIDATES - 1)
    strata = uniform((n_sets, n), generator, like).argsort(0)
    return many.gather(0, picked + CANDIDATES * strata)


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform noise on [0, 1) of `shape` in float64, on the device of `like`."""
    noise = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return noise.to(like.device)


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
