"""Training VAEs, saving them in folders, and repairing an encoder on a frozen decoder."""

from .architecture import AmortizedPosterior, Architecture, architecture_of, build, family_names
from .checkpoints import TrainingFolder, TrainingState, read_epochs
from .fit import adam, fit, run_epoch, step_of
from .model_folders import demo_model, load_model, save_model, shipped, training_progress
from .networks import conv_decoder, conv_encoder, mlp, mlp_decoder, mlp_encoder
from .repair import Repair, repair
from .settings import ADAM_EPS, Epoch, LearningRateSchedule, Settings, entropy_weight, learning_rate_factor
from .team import Team, torchrun_team
from .weight_files import (
    CHECKPOINT,
    CONFIG,
    WEIGHTS,
    ensure_folder,
    load_state,
    modules_by_prefix,
    read_tensors,
    refuse_file,
    state_of,
    to_half,
    write_config,
    write_tensors,
)

__all__ = [
    "ADAM_EPS",
    "AmortizedPosterior",
    "Architecture",
    "CHECKPOINT",
    "CONFIG",
    "Epoch",
    "LearningRateSchedule",
    "Repair",
    "Settings",
    "Team",
    "TrainingFolder",
    "TrainingState",
    "WEIGHTS",
    "adam",
    "architecture_of",
    "build",
    "conv_decoder",
    "conv_encoder",
    "demo_model",
    "ensure_folder",
    "entropy_weight",
    "family_names",
    "fit",
    "learning_rate_factor",
    "load_model",
    "load_state",
    "mlp",
    "mlp_decoder",
    "mlp_encoder",
    "modules_by_prefix",
    "read_epochs",
    "read_tensors",
    "refuse_file",
    "repair",
    "run_epoch",
    "save_model",
    "shipped",
    "state_of",
    "step_of",
    "to_half",
    "torchrun_team",
    "training_progress",
    "write_config",
    "write_tensors",
]
