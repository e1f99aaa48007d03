"""The blocks of a phase, one after the other: in memory, or in a folder that other processes fill too."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray

from ..core import BLOCK, Blocks, n_data
from ..evidence import prepared_pair
from ..posteriors import Posterior
from ..results import Filling, Gaps, KeptFits, Parts, RunningMeans
from .block_ladder import as_one, fingerprint, measure_block, not_measured
from .known_fits import as_columns, known_fits
from .measurement import Phase

__all__ = ["KeptPhase", "Share", "kept_phase", "measured"]

Share = tuple[int, int]  # (k, n): the k-th of n parts of the blocks, counted from 1


def measured(
    phase: Phase, report: Callable[[float], None], size: int = BLOCK, means: RunningMeans | None = None
) -> Gaps:
    """Measure all data of a phase, without notes and provenance.

    Args:
        report: called with the number of data done.
        size: rows of a block.
        means: told of each block that is done.
    Raises:
        ValueError: no datum has a finite value on every rung.
    """
    with prepared_pair(phase.model, phase.q, phase.x, size) as (posterior, blocks):

        def each() -> Iterator[Gaps]:
            before = 0
            for block in blocks:
                gaps, _ = measure_block(phase, posterior, block, _within(report, before, block.rows))
                before += block.rows
                if means is not None:
                    means.add(gaps)
                report(before)
                yield gaps

        return as_one(each(), n_data(phase.x))


@contextmanager
def kept_phase(
    phase: Phase, parts: Parts, fits: KeptFits, share: Share | None = None, means: RunningMeans | None = None
) -> Iterator["KeptPhase"]:
    """A context in which a phase can be measured into its folder.

    Args:
        fits: where the fits of its blocks are kept.
        share: which blocks this process is to measure; None for all.
        means: told of each block that is there.
    """
    with prepared_pair(phase.model, phase.q, phase.x) as (posterior, blocks):
        yield KeptPhase(phase, parts, fits, posterior, blocks, share, means)


class KeptPhase:
    """A phase whose blocks are kept in a folder as they are measured; `kept_phase` makes it."""

    def __init__(
        self,
        phase: Phase,
        parts: Parts,
        fits: KeptFits,
        posterior: Posterior,
        blocks: Blocks,
        share: Share | None = None,
        means: RunningMeans | None = None,
    ) -> None:
        self._phase, self._parts, self._posterior, self._blocks = phase, parts, posterior, blocks
        self._fits, self._means = fits, means
        self._seen: set[int] = set()  # the blocks that the means know
        first, step = (1, 1) if share is None else share
        self.all = Filling(parts, {number: blocks.rows(number) for number in range(len(blocks))})
        self.own = Filling(parts, {number: blocks.rows(number) for number in range(len(blocks))[first - 1 :: step]})
        self._fingerprints: dict[int, NDArray[np.int64]] = {}
        self.given_up: Collection[int] = ()  # blocks that are not to be measured, since that failed elsewhere

    @property
    def name(self) -> str:
        """The name of the phase."""
        return self._phase.name

    def verify(self) -> None:
        """Read the own blocks that are there.

        Raises:
            RunError: one of them is of other data, or of more of them.
        """
        for number in sorted(self.own.rows.keys() - set(self.own.missing())):
            self._load(number)

    def look(self) -> None:
        """Take blocks that have come to be since the last look into the running means."""
        for number in sorted(self.all.rows.keys() - set(self.all.missing()) - self._seen):
            self._load(number)

    def fill(self, report: Callable[[float], None], in_memory: bool = True, waits: bool = True) -> None:
        """Measure the own blocks that are not there.

        Args:
            report: called with the number of data done, those of the phases before included.
            in_memory, waits: as in `Filling.fill`.
        """
        rows = {number: n for number, n in self.own.rows.items() if number not in self.given_up}
        self._fill(Filling(self._parts, rows), report, in_memory, waits)

    def fill_one(self, number: int, in_memory: bool = False) -> None:
        """Measure one block that is not there, or wait for who measures it."""
        one = Filling(self._parts, {number: self._blocks.rows(number)})
        self._fill(one, lambda done: None, in_memory, waits=True)

    def collect(self) -> Gaps:
        """All blocks as one, when they are there; one that is damaged is measured again, whosever it was.

        Raises:
            RunError: a block is of other data, or of more of them.
            ValueError: no datum has a finite value on every rung.
        """
        numbers = range(len(self._blocks))
        like = next((self._there(number) for number in numbers if number not in self.given_up), None)
        if like is None:
            raise ValueError("no block of data could be measured: nothing can be reported")
        blocks = (
            self._unknown(number, like) if number in self.given_up else self._there(number) for number in numbers
        )
        return as_one(blocks, n_data(self._phase.x))

    def alone(self) -> AbstractContextManager[None]:
        """A context that one process at a time is in."""
        return self._parts.alone()

    def release(self) -> None:
        """Remove the claims, when all blocks are there."""
        self._parts.finish()

    def _fill(self, wanted: Filling, report: Callable[[float], None], in_memory: bool, waits: bool) -> None:
        phase = self._phase

        def measure(number: int) -> Gaps:
            block = self._blocks[number]
            prints = fingerprint(block)
            self._fingerprints[number] = prints[: block.rows]
            known = known_fits(self._fits.load(number), prints, block.like)
            within = _within(report, phase.before + wanted.rows_done(), block.rows)
            gaps, rungs = measure_block(phase, self._posterior, block, within, known)
            if not known:
                self._fits.save(number, as_columns(rungs, prints))
            self._take_in(number, gaps)
            return gaps

        wanted.fill(measure, lambda done: report(phase.before + done), in_memory, waits)

    def _there(self, number: int) -> Gaps:
        """A block, measured again if it is damaged."""
        while (gaps := self._load(number)) is None:
            self.fill_one(number, in_memory=True)
        return gaps

    def _unknown(self, number: int, like: Gaps) -> Gaps:
        """A block of which nothing is known."""
        block = self._blocks[number]
        return not_measured(like, block.index.numpy()[: block.rows], fingerprint(block)[: block.rows])

    def _load(self, number: int) -> Gaps | None:
        if number not in self._fingerprints:
            block = self._blocks[number]
            self._fingerprints[number] = fingerprint(block)[: block.rows]
        gaps = self._parts.load(number, self._fingerprints[number])
        if gaps is not None:
            self._take_in(number, gaps)
        return gaps

    def _take_in(self, number: int, gaps: Gaps) -> None:
        if number not in self._seen and self._means is not None:
            self._means.add(gaps)
        self._seen.add(number)


def _within(report: Callable[[float], None], before: float, rows: int) -> Callable[[int, int], None]:
    """What a block calls with (rungs fitted, rungs in all), for a report of data done."""

    def fitted(done: int, total: int) -> None:
        report(before + rows * (1 + done) / (total + 2))  # L[q] is done, and log p(x) is still to come

    return fitted
