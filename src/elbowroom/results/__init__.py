"""What was measured, and how it reads. A saved run is loaded, printed and judged without any estimator."""

from .compare import Comparison, compare
from .estimate import SIDES, Array, Correction, Estimate, concatenate
from .gaps import Gaps, load_gaps
from .ladder import REMAINDER, TEMPERED, Ladder, Rung, suggestion
from .outcomes import FLAG_WORDS, OUTCOME_WORDS, FitReport, Flag, Outcome
from .store import SCHEMA, RunError, read_run, write_run
from .table import flag_counts, group_table, ladder_table
from .verdict import Finding, judge

__all__ = [
    "Array",
    "Comparison",
    "Correction",
    "Estimate",
    "FLAG_WORDS",
    "Finding",
    "FitReport",
    "Flag",
    "Gaps",
    "Ladder",
    "OUTCOME_WORDS",
    "Outcome",
    "REMAINDER",
    "RunError",
    "Rung",
    "SCHEMA",
    "SIDES",
    "TEMPERED",
    "compare",
    "concatenate",
    "flag_counts",
    "group_table",
    "judge",
    "ladder_table",
    "load_gaps",
    "read_run",
    "suggestion",
    "write_run",
]
