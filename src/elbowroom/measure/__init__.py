"""Measurements: the ladder of a model on data, the sandwich that certifies it, and checks of models and data."""

from .check import check, data_notes
from .decompose import decompose
from .double_sampling import combine, expected_se, refined_rows, second_phase_seed
from .filling import Share
from .forecast import PILOT, Forecast, estimate_cost, forecast
from .kept import BlockKey, KeptRun, follow, kept_run, unkept_run
from .measurement import Measurement, measurement
from .own_number import check_own_number
from .plan import PLANS, Plan, PlanLike, PlanName, as_plan
from .progress import progress_with_notes, reporting
from .provenance import described, described_data
from .rungs import FittedRung, fit_rungs, fitted_flow, widest_gaussian
from .sandwich import Sandwich, sandwich
from .selftest import FALSE_ALARM, N_MODELS, SHORTFALL, TruthRow, limit_of, off, run_selftest

__all__ = [
    "BlockKey",
    "FALSE_ALARM",
    "FittedRung",
    "Forecast",
    "KeptRun",
    "Measurement",
    "N_MODELS",
    "PILOT",
    "PLANS",
    "Plan",
    "PlanLike",
    "PlanName",
    "SHORTFALL",
    "Sandwich",
    "Share",
    "TruthRow",
    "as_plan",
    "check",
    "check_own_number",
    "combine",
    "data_notes",
    "decompose",
    "described",
    "described_data",
    "estimate_cost",
    "expected_se",
    "fit_rungs",
    "fitted_flow",
    "follow",
    "forecast",
    "kept_run",
    "limit_of",
    "measurement",
    "off",
    "progress_with_notes",
    "refined_rows",
    "reporting",
    "run_selftest",
    "sandwich",
    "second_phase_seed",
    "unkept_run",
    "widest_gaussian",
]
