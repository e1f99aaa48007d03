"""`elbowroom selftest`: measure models whose every number is known, and print truth beside estimate."""

from dataclasses import asdict

import torch

from ..measure import FALSE_ALARM, N_MODELS, SHORTFALL, limit_of, off, run_selftest
from ..results import SIDES, aligned
from .options import Switch
from .terminal import bars, json_object, say

__all__ = ["selftest_command"]


def selftest_command(*, seed: int = 0, json: Switch = False) -> int:
    """The command; `app.HELP` says what it does.

    Args:
        seed: Random seed of the models, of the data and of the measurement.
        json: Print one JSON object on standard output, and the table on standard error.
    """
    torch.set_num_threads(1)  # on models this small more threads only wait for each other
    with json_object(json) as record:
        with bars("models") as add:
            rows = run_selftest(seed, add("selftest", N_MODELS))
        failed, limit = off(rows), limit_of(len(rows))
        table: list[tuple[str, ...]] = [("", "", "truth", "estimate", "error", "dist", "")]
        for row in rows:
            numbers = (f"{row.truth:.3f}", f"{row.estimate:.3f}", f"{row.error:.1e}", f"{row.distance:.1f}")
            table.append((row.quantity, SIDES[row.side], *numbers, "OFF" if row in failed else "ok"))
        header, *lines = aligned(table)
        say(header)
        for before, row, line in zip([None, *rows], rows, lines, strict=False):
            if before is None or before.model != row.model:
                say(f"{row.model}:")
            say(line)
        say(f"\n{len(rows) - len(failed)} of {len(rows)} lie within {limit:.1f} standard errors of the truth (dist).")
        say(f"Chance alone puts one of them further off in one selftest of {1 / FALSE_ALARM:,.0f}.")
        say(f"Distances leave out up to {SHORTFALL:g} nats by which a bound may fall short: fits may end early.")
        record |= {"passed": not failed, "limit": limit}
        record["rows"] = [asdict(row) | {"distance": row.distance, "ok": row not in failed} for row in rows]
    return 1 if failed else 0
