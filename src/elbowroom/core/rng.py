"""Randomness keyed by meaning: a generator is named by what it draws, not by when it is used.

seeded(seed, "ais", block, group)   ->  the same numbers for every caller, in any order, on any number of workers
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["forked", "normal", "orthogonal", "seed_of", "seeded", "uniform"]


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


def orthogonal(shape: tuple[int, int], generator: torch.Generator, like: Tensor) -> Iterator[Tensor]:
    """Yield standard normal draws (N, D) without end.

    Within each set of D successive draws, those of one row are orthogonal and of equal length, so that the average of
    e e' over a set is a multiple of the identity. All rows share a random rotation, and differ by their own signs and
    length: each row is N(0, I), but the rows of one draw are not independent of each other.
    """
    n, d = shape
    while True:
        rotation, _ = torch.linalg.qr(normal((d, d), generator, like.double()))
        signs = 2.0 * (uniform((n, d), generator, like) < 0.5) - 1.0
        length = normal((n, d), generator, like.double()).norm(dim=-1, keepdim=True)
        for row in rotation:
            yield (row * signs * length).to(like)


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
