"""The experiments of Cremer, Li and Duvenaud (2018): one file for each question, read from top to bottom."""

from .annealing import ANNEALING
from .certificate import CERTIFICATE
from .claims import Claim, Decision, decide, decide_between
from .data_size import DATA_SIZE
from .decoder_size import DECODER_SIZE
from .encoder_ladder import ENCODER_LADDER
from .experiment import LADDERS, SCALES, Experiment, Findings, Lab, NamedArrays, Scale, Trained
from .fit_the_family import FIT_THE_FAMILY
from .flow_amortization import FLOW_AMORTIZATION
from .gap_sizes import GAPS
from .larger_encoder import LARGER_ENCODER, WIDE_ENCODER
from .overfitting import OVERFITTING
from .pages import claims_page, experiment_page
from .posterior_plane import POSTERIOR_PLANE
from .refinement import REFINEMENT
from .trainings import over_trainings

__all__ = [
    "NamedArrays",
    "Claim",
    "Decision",
    "EXPERIMENTS",
    "Experiment",
    "Findings",
    "LADDERS",
    "Lab",
    "SCALES",
    "Scale",
    "Trained",
    "claims_page",
    "decide",
    "decide_between",
    "experiment_page",
    "over_trainings",
]

EXPERIMENTS = {
    each.name: each
    for each in (
        POSTERIOR_PLANE,
        GAPS,
        LARGER_ENCODER,
        WIDE_ENCODER,
        ANNEALING,
        FLOW_AMORTIZATION,
        DECODER_SIZE,
        OVERFITTING,
        CERTIFICATE,
        REFINEMENT,
        ENCODER_LADDER,
        DATA_SIZE,
        FIT_THE_FAMILY,
    )
}
