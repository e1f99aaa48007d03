"""Bounds of log p(x): ELBO, IWAE and annealed importance sampling, and the choice of the one reported for a datum."""

from . import hmc
from .ais import (
    RELAX_LEAPFROG,
    AnnealedChains,
    AnnealingPath,
    AnnealingSchedule,
    ais,
    ais_of,
    anneal,
    inverse_temperatures,
    tune,
)
from .bases import Base, GaussianBase, PriorBase, gaussian_base
from .bounds import GROUP, block_log_weights, elbo, elbo_of, iwae, iwae_of, log_weights
from .door import CheckError, check_door, check_logits, check_range
from .importance_weights import (
    are_believable,
    effective_sample_size,
    grouped_noise,
    k_hat,
    k_hat_threshold,
    log_mean_exp,
)
from .log_evidence import Evidence, EvidencePlan, block_evidence
from .modes import adapted_mixture
from .preparation import prepared, prepared_pair
from .proposals import DefensiveMixture, StudentT
from .reverse import reverse_bound
from .selection import ESTIMATOR_WORDS, Candidate, Candidates, Estimator, choose, flags_of, picked

__all__ = [
    "AnnealedChains",
    "AnnealingPath",
    "AnnealingSchedule",
    "Base",
    "Candidate",
    "Candidates",
    "CheckError",
    "DefensiveMixture",
    "ESTIMATOR_WORDS",
    "Estimator",
    "Evidence",
    "EvidencePlan",
    "GROUP",
    "GaussianBase",
    "PriorBase",
    "RELAX_LEAPFROG",
    "StudentT",
    "ais",
    "ais_of",
    "adapted_mixture",
    "anneal",
    "are_believable",
    "block_evidence",
    "block_log_weights",
    "check_door",
    "check_logits",
    "check_range",
    "choose",
    "effective_sample_size",
    "elbo",
    "elbo_of",
    "flags_of",
    "gaussian_base",
    "grouped_noise",
    "hmc",
    "inverse_temperatures",
    "iwae",
    "iwae_of",
    "k_hat",
    "k_hat_threshold",
    "log_mean_exp",
    "log_weights",
    "picked",
    "prepared",
    "prepared_pair",
    "reverse_bound",
    "tune",
]
