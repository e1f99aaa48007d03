"""Keyed randomness: a name gives the same numbers in any order, and nothing else moves."""

import itertools
from itertools import islice

import pytest
import torch
from scipy import stats

from elbowroom.core import forked, normal, orthogonal, seed_of, seeded, uniform

from ..statistics import assert_distribution_is, assert_mean_is

KEYS: list[tuple[int, tuple[str | int, ...]]] = [
    (0, ()), (1, ()), (0, ("a",)), (0, ("b",)), (0, ("a", 1)), (0, ("a", 2)), (0, (1, "a")), (1, ("a", 1)),
    (0, ("a1",)), (0, ("a", "1")), (0, ("a", 12)), (0, ("a", 1, 2)), (0, ("a1", 2)), (10, ("a",)), (-1, ("a",)),
]  # fmt: skip


def numbers(seed: int, keys: tuple[str | int, ...]) -> list[float]:
    return torch.rand(8, generator=seeded(seed, *keys), dtype=torch.float64).tolist()


def test_a_key_gives_the_same_numbers_in_any_order() -> None:
    first = {case: numbers(*case) for case in KEYS}
    torch.rand(3)
    again = {case: numbers(*case) for case in reversed(KEYS)}
    assert first == again


def test_different_keys_give_different_numbers() -> None:
    for one, other in itertools.combinations(KEYS, 2):
        assert not set(numbers(*one)) & set(numbers(*other)), (one, other)


def test_a_seed_that_is_an_integer_of_another_type_is_the_same_seed() -> None:
    assert numbers(int(torch.tensor(3)), ("a",)) == numbers(3, ("a",))


@pytest.mark.parametrize("key", ["", "elbo"])
def test_noise_follows_its_distribution(key: str) -> None:
    like = torch.empty(0, dtype=torch.float64)
    assert_distribution_is(normal((40, 500), seeded(7, key), like), stats.norm.cdf, n_comparisons=4)
    flat = uniform((40, 500), seeded(8, key), like)
    assert_distribution_is(flat, stats.uniform.cdf, n_comparisons=4)
    assert flat.min() >= 0
    assert flat.max() < 1


def test_float32_and_float64_runs_see_the_same_noise() -> None:
    double = normal((5, 7), seeded(0, "a"), torch.empty(0, dtype=torch.float64))
    single = normal((5, 7), seeded(0, "a"), torch.empty(0, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert torch.equal(double.float(), single)
    assert uniform((5,), seeded(0), torch.empty(0, dtype=torch.float32)).dtype == torch.float64


def test_the_global_generator_does_not_move() -> None:
    before = torch.get_rng_state()
    normal((3,), seeded(0, "a"), torch.empty(0))
    uniform((3,), seeded(0, "a"), torch.empty(0))
    with forked(5):
        torch.rand(10)
    assert torch.equal(torch.get_rng_state(), before)


def failing(expected: torch.Tensor) -> None:
    with forked(5):
        assert torch.equal(torch.rand(4), expected)
        raise KeyError


def test_forked_seeds_inside_and_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with forked(5):
        first = torch.rand(4)
    with pytest.raises(KeyError):
        failing(first)
    with forked(6):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_forked_leaves_devices_alone_that_it_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded every CUDA device"))
    with forked(5):
        assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(5)).item()


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_seeds_from_noise_differ_in_their_low_bits(precision: torch.dtype) -> None:
    """torch's CPU generator seeds from 32 bits: 1,000 noises give 1,000 seeds (false alarms: 1e-4)."""
    seeds = {seed_of(torch.randn(16, 3, generator=seeded(0, i)).to(precision)) % 2**32 for i in range(1000)}
    assert len(seeds) == 1000


def test_orthogonal_draws_are_normal_and_cancel_within_a_set() -> None:
    """Each row is N(0, I) by its moments and by its distribution; within a set of D draws e e' averages to a multiple
    of I, so the products of different coordinates cancel exactly.
    """
    d, n_sets = 4, 2000
    draws = orthogonal((2, d), 4, seeded(0, "orthogonal"), torch.empty(0, dtype=torch.float64))
    e = torch.stack(list(islice(draws, d * n_sets))).reshape(n_sets, d, 2, d)
    products = torch.einsum("bknj,bkni->bnij", e, e) / d
    expected = products.diagonal(dim1=-2, dim2=-1)[..., :1, None] * torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(products, expected, rtol=1e-9, atol=1e-9)
    one = e[::4, 0]  # one draw of each stratified sample: independent of each other
    assert_mean_is(one.flatten(1), 0.0, n_comparisons=2 * d)
    assert_mean_is(one.square().flatten(1), 1.0, n_comparisons=2 * d)
    for coordinate in range(d):
        assert_distribution_is(one[:, 0, coordinate].numpy(), stats.norm.cdf, n_comparisons=d)
    crossed = (one[:, 0] * one[:, 1]).numpy()  # rows of one draw are no copies of each other
    assert_mean_is(crossed, 0.0, n_comparisons=d)


def test_the_lengths_of_orthogonal_sets_are_a_stratified_sample() -> None:
    """The mean squared length of 8 sets in 2 dimensions varies less than a third as much as that of independent
    normals, whose variance is 4/8; every length is that of a normal draw (false alarms: 1e-4 each).
    """
    d, n_sets, n = 2, 8, 1000
    draws = orthogonal((n, d), n_sets, seeded(1, "orthogonal"), torch.empty(0, dtype=torch.float64))
    squares = torch.stack(list(islice(draws, d * n_sets)))[::d].square().sum(-1)
    assert squares.mean(0).var() < 4 / n_sets / 3
    assert_distribution_is(squares[0].numpy(), stats.chi2(d).cdf, n_comparisons=1)


def test_a_single_orthogonal_set_averages_to_the_identity() -> None:
    d = 20
    draws = orthogonal((3, d), 1, seeded(2, "orthogonal"), torch.empty(0, dtype=torch.float64))
    e = torch.stack(list(islice(draws, d)))
    average = torch.einsum("kni,knj->nij", e, e) / d
    torch.testing.assert_close(average, torch.eye(d, dtype=torch.float64).expand(3, d, d), rtol=1e-9, atol=1e-9)
