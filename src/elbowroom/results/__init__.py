"""Results of a measurement: how they are stored, printed and interpreted.

A saved run is loaded, printed and judged without importing any estimator.
"""

from .claims import Presence
from .compare import Comparison, compare
from .display import ByValue, Listing, Row, Shown, aligned, duration, html_list, html_table
from .estimate import SIDES, Array, Correction, Estimate, concatenate
from .filling import BlockNotKept, Filling
from .gaps import Gaps, load_gaps
from .kept_fits import Columns, KeptFits
from .ladder import REMAINDER, TEMPERED, Ladder, Rung, suggestion
from .listing import RunState, run_folders, run_states
from .outcomes import FLAG_WORDS, OUTCOME_WORDS, SECOND_OPINION, FitReport, Flag, Outcome
from .parts import Parts, begin_next_plan, bytes_on_disk, is_followed
from .running import RunningMeans
from .slim import slim
from .store import BLOCKS, PROGRESS_LOG, SCHEMA, WORKERS, RunError, read_run, refuse_occupied, write_run
from .summary import ladder_summary
from .table import LadderRow, flag_counts, group_table, ladder_html, ladder_rows, ladder_table, rungs_beside
from .verdict import Finding, Verdict, judge

__all__ = [
    "Array",
    "BLOCKS",
    "BlockNotKept",
    "ByValue",
    "Columns",
    "Comparison",
    "Correction",
    "Estimate",
    "FLAG_WORDS",
    "Filling",
    "Finding",
    "FitReport",
    "Flag",
    "SECOND_OPINION",
    "Gaps",
    "KeptFits",
    "Ladder",
    "LadderRow",
    "Listing",
    "OUTCOME_WORDS",
    "Outcome",
    "PROGRESS_LOG",
    "Parts",
    "Presence",
    "REMAINDER",
    "Row",
    "RunError",
    "RunState",
    "Rung",
    "RunningMeans",
    "SCHEMA",
    "SIDES",
    "Shown",
    "TEMPERED",
    "Verdict",
    "WORKERS",
    "aligned",
    "begin_next_plan",
    "bytes_on_disk",
    "duration",
    "compare",
    "concatenate",
    "flag_counts",
    "group_table",
    "html_list",
    "html_table",
    "is_followed",
    "judge",
    "ladder_html",
    "ladder_rows",
    "ladder_summary",
    "ladder_table",
    "load_gaps",
    "read_run",
    "refuse_occupied",
    "run_folders",
    "run_states",
    "rungs_beside",
    "slim",
    "suggestion",
    "write_run",
]
