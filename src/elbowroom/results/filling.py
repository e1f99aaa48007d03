"""The loop in which any number of processes fill one folder with the blocks of a run.

Each claims a block that is not there, measures and writes it, until all are there. What is left when there is nothing
to claim has been claimed by others: it is waited for, and taken over if its process is dead.
"""

import time
from collections.abc import Callable, Mapping

from .gaps import Gaps
from .parts import Parts
from .store import RunError

__all__ = ["BlockNotKept", "Filling"]

BETWEEN_LOOKS = 0.5  # seconds between two looks at what other processes have done, or more
SHARE_OF_LOOKS = 0.02  # of the time, that looking may take where there are many blocks


class BlockNotKept(RunError):
    """Raised where a block could not be written, and must be."""


class Filling:
    """Blocks that are to be in a folder.

    Args:
        parts: the folder.
        rows: the number of rows of each block, by its number.
    """

    def __init__(self, parts: Parts, rows: Mapping[int, int]) -> None:
        self.parts, self.rows = parts, rows
        self._done, self._next_look, self._pause = 0, 0.0, BETWEEN_LOOKS

    def missing(self) -> list[int]:
        """The numbers of the blocks that are not there."""
        kept = self._look()
        return [number for number, rows in self.rows.items() if kept.get(number, 0) < rows]

    def rows_done(self) -> int:
        """How many rows of these blocks were there at the last look, and those measured here since."""
        if time.monotonic() >= self._next_look:
            self._look()
        return self._done

    def _look(self) -> dict[int, int]:
        """The rows of all blocks that are there. The next look comes so late that looking takes little of the time."""
        start = time.monotonic()
        kept = self.parts.rows_kept()
        self._done = sum(min(rows, kept.get(number, 0)) for number, rows in self.rows.items())
        now = time.monotonic()
        self._pause = max(BETWEEN_LOOKS, (now - start) / SHARE_OF_LOOKS)
        self._next_look = now + self._pause
        return kept

    def fill(
        self,
        measure: Callable[[int], Gaps],
        report: Callable[[int], None],
        in_memory: bool = True,
        waits: bool = True,
    ) -> None:
        """Measure blocks, beside other processes that do the same, until all are there.

        Args:
            measure: measures the block of a number.
            report: called with the number of rows that are done, by whomever.
            in_memory: go on in memory where a block cannot be written.
            waits: for blocks that others have claimed, taking over those of dead processes; if False, return when there
                is nothing to claim.
        Raises:
            BlockNotKept: a block could not be written, and `in_memory` is False.
        """
        take_over = False
        while left := self.missing():
            self.parts.prepare()
            n_measured = 0
            for number in self.parts.in_own_order(left):
                if self.parts.claim(number, take_over):
                    if take_over and self.parts.rows_of(number) >= self.rows[number]:
                        continue  # its process has written it since the last look, and left
                    self._measure_claimed(number, measure)
                    n_measured += 1
                    report(self.rows_done())
                    if self.parts.is_lost and not in_memory:
                        raise BlockNotKept(f"block {number} could not be written; what was finished before is kept")
            if not waits and not n_measured:
                return
            if take_over and not n_measured:
                time.sleep(self._pause)
                report(self.rows_done())
            take_over = n_measured == 0

    def _measure_claimed(self, number: int, measure: Callable[[int], Gaps]) -> None:
        try:
            self.parts.save(number, measure(number))
        except BaseException:
            self.parts.give_up(number)
            raise
        self._done += self.rows[number]
