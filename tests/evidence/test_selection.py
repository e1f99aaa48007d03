"""The rules that choose an estimate of log p(x), each alone: where it applies, and where it does not."""

from dataclasses import replace

import numpy as np
import pytest

from elbowroom.evidence import Candidate, Estimator, choose, flags_of, picked
from elbowroom.evidence.selection import (
    ESTIMATOR_WORDS,
    SLACK,
    Z_DISAGREE,
    bases_disagree,
    defended_first,
    fills_gap,
    lies_higher,
    light_tails,
    missed_mass,
    not_believed,
    not_finite,
    smallest_error,
    too_heavy,
)
from elbowroom.results import Estimate, Flag

IWAE, AIS, FLOW, ENCODER = Estimator
N = 3
HIGH = Z_DISAGREE * np.hypot(0.1, 0.1) + SLACK + 0.01  # just enough above a pilot of the same error


def candidate(name: str, pilot: float = -10.0, error: float = 0.1, expected: float | None = None) -> Candidate:
    """One estimator, its pilot and its run alike, all reliable."""
    noise: dict[object, np.ndarray] = {name: np.full((1, N), error)}
    return Candidate(
        pilot=np.full(N, pilot),
        pilot_error=np.full(N, error),
        expected=np.full(N, error if expected is None else expected),
        estimate=Estimate(name, np.full(N, pilot), side="lower", noise=noise),
        reliable=np.ones(N, dtype=bool),
        certified=np.ones(N, dtype=bool),
        k_hat=np.full(N, 0.1),
        replaceable=np.zeros(N, dtype=bool),
    )


def all_of(mask: np.ndarray) -> bool:
    """All data or none: every rule here is given data that are alike."""
    assert mask.shape == (N,)
    assert mask.dtype == bool
    assert mask.all() or not mask.any()
    return bool(mask.all())


def chosen_of(name: Estimator) -> np.ndarray:
    return np.full(N, name.value)


def test_every_estimator_has_words() -> None:
    assert set(ESTIMATOR_WORDS) == set(Estimator)


def test_the_encoders_own_foresight_never_counts() -> None:
    candidates = {IWAE: candidate("iwae"), ENCODER: candidate("encoder", error=0.001)}
    assert all_of(light_tails(candidates, ENCODER))
    assert not all_of(light_tails(candidates, IWAE))
    assert set(choose(candidates, defended=False)) == {"iwae"}


def test_annealing_that_lies_below_another_pilot_does_not_count() -> None:
    candidates = {IWAE: candidate("iwae", -10 + HIGH), AIS: candidate("AIS", error=0.1)}
    assert all_of(missed_mass(candidates, AIS))
    assert not all_of(missed_mass(candidates, IWAE))
    assert not all_of(missed_mass(candidates | {IWAE: candidate("iwae", -10 + HIGH - 0.02)}, AIS))


def test_what_the_prior_defends_comes_first_where_it_foresees_an_error() -> None:
    candidates = {IWAE: candidate("iwae", error=0.2), AIS: candidate("AIS", error=0.01)}
    assert all_of(defended_first(candidates, AIS, True))
    assert not all_of(defended_first(candidates, IWAE, True))
    assert not all_of(defended_first(candidates, AIS, False))
    blind = candidates | {IWAE: candidate("iwae", expected=np.inf)}
    assert not all_of(defended_first(blind, AIS, True))
    assert set(choose(candidates, defended=True)) == {"iwae"}
    assert set(choose(candidates, defended=False)) == {"ais"}


def test_the_smallest_foreseen_error_is_chosen_and_of_equal_ones_the_first() -> None:
    candidates = {
        AIS: candidate("AIS", error=0.1),
        IWAE: candidate("iwae", error=0.1),
        FLOW: candidate("flow", error=0.2),
    }
    none = {name: np.zeros(N, dtype=bool) for name in candidates}
    assert set(smallest_error(candidates, none)) == {"iwae"}
    assert set(smallest_error(candidates, none | {IWAE: np.ones(N, dtype=bool)})) == {"ais"}
    blind = {name: replace(c, expected=np.full(N, np.inf)) for name, c in candidates.items()}
    blind[FLOW] = replace(blind[FLOW], pilot_error=np.full(N, 0.01))
    assert set(smallest_error(blind, none)) == {"flow"}


def test_a_pilot_that_lies_clearly_higher_replaces_the_choice() -> None:
    candidates = {IWAE: candidate("iwae"), FLOW: candidate("flow", -10 + HIGH)}
    assert all_of(lies_higher(candidates, chosen_of(IWAE), FLOW))
    assert not all_of(lies_higher(candidates, chosen_of(FLOW), IWAE))
    unforeseen = candidates | {FLOW: candidate("flow", -10 + HIGH, expected=np.inf)}
    assert not all_of(lies_higher(unforeseen, chosen_of(IWAE), FLOW))


def test_what_has_no_number_gives_way_to_what_has_one() -> None:
    candidates = {IWAE: candidate("iwae", np.nan), AIS: candidate("AIS")}
    assert all_of(fills_gap(candidates, chosen_of(IWAE), AIS))
    assert not all_of(fills_gap(candidates, chosen_of(AIS), IWAE))
    assert not all_of(fills_gap(candidates, chosen_of(AIS), AIS))


@pytest.mark.parametrize("spoiled", ["nothing", "not chosen", "not replaceable", "annealing unreliable", "lies higher"])
def test_weights_that_turn_out_too_heavy_give_way_to_annealing(spoiled: str) -> None:
    iwae, ais = replace(candidate("iwae"), replaceable=np.ones(N, dtype=bool)), candidate("AIS")
    chosen = chosen_of(FLOW if spoiled == "not chosen" else IWAE)
    if spoiled == "not replaceable":
        iwae = candidate("iwae")
    if spoiled == "annealing unreliable":
        ais = replace(ais, reliable=np.zeros(N, dtype=bool))
    if spoiled == "lies higher":
        ais = candidate("AIS", -10 - HIGH)
    assert all_of(too_heavy({IWAE: iwae, AIS: ais, FLOW: candidate("flow")}, chosen)) is (spoiled == "nothing")


def test_without_annealing_nothing_gives_way() -> None:
    assert not all_of(too_heavy({IWAE: candidate("iwae")}, chosen_of(IWAE)))


def test_an_error_is_believed_by_its_own_diagnostics_and_where_defended_by_those_too() -> None:
    poor = replace(candidate("iwae"), reliable=np.zeros(N, dtype=bool))
    candidates = {IWAE: poor, AIS: candidate("AIS")}
    assert all_of(not_believed(candidates, chosen_of(IWAE), False))
    assert not all_of(not_believed(candidates, chosen_of(AIS), False))
    assert all_of(not_believed(candidates, chosen_of(AIS), True))


def test_bases_disagree_where_a_run_lies_above_the_choice_or_above_a_gaussian_base() -> None:
    candidates = {IWAE: candidate("iwae"), AIS: candidate("AIS"), FLOW: candidate("flow", -10 + HIGH)}
    assert all_of(bases_disagree(candidates, chosen_of(IWAE), False))
    assert all_of(bases_disagree(candidates, chosen_of(FLOW), False))  # the Gaussian's own estimates lie below it
    alike = candidates | {FLOW: candidate("flow")}
    assert not all_of(bases_disagree(alike, chosen_of(IWAE), False))


def test_flags_are_those_of_the_rules() -> None:
    poor = replace(candidate("iwae", np.nan), reliable=np.zeros(N, dtype=bool))
    assert all_of(not_finite({IWAE: poor}, chosen_of(IWAE)))
    assert set(flags_of({IWAE: poor}, chosen_of(IWAE), False)) == {Flag.ERROR_UNRELIABLE | Flag.NOT_FINITE}
    assert set(flags_of({IWAE: candidate("iwae")}, chosen_of(IWAE), False)) == {0}


def test_what_is_picked_is_each_datums_own() -> None:
    candidates = {IWAE: candidate("iwae", -10.0), AIS: candidate("AIS", -11.0, error=0.3)}
    estimate = picked(candidates, np.array(["iwae", "ais", "iwae"]), np.array([5, 6, 7]))
    assert estimate.values.tolist() == [-10.0, -11.0, -10.0]
    assert estimate.ids.tolist() == [5, 6, 7]
    np.testing.assert_allclose(estimate.mc_errors, [0.1, 0.3, 0.1])


def test_draws_of_the_prior_that_do_not_know_their_own_mean_certify_nothing() -> None:
    """Where they are among the importance samples; otherwise they are not asked."""
    unsure = replace(candidate("iwae"), certified=np.zeros(N, dtype=bool))
    candidates = {IWAE: unsure, AIS: candidate("AIS")}
    for chosen in (IWAE, AIS):
        assert all_of(not_believed(candidates, chosen_of(chosen), True))
        assert not all_of(not_believed(candidates, chosen_of(chosen), False))
