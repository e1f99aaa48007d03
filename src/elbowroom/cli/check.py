"""`elbowroom check`: what makes a model unmeasurable."""

import torch
from cyclopts.types import PositiveInt

from ..core import n_data
from ..models import latent_size
from .data_spec import open_sets, samples
from .model_spec import checked, open_model
from .options import NO_CHOICE, DataChoice, Switch
from .terminal import json_object, say

__all__ = ["check_command"]


def check_command(
    *,
    model: str,
    choice: DataChoice = NO_CHOICE,
    own_elbo: float | None = None,
    seed: int = 0,
    threads: PositiveInt = 1,
    unfinished: Switch = False,
    json: Switch = False,
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model.
        own_elbo: The mean ELBO of these data in nats, as your own code computes it. It must agree with the one here;
            if it does not, the explanations that fit are named.
        seed: Random seed.
        threads: Number of CPU threads.
        unfinished: Check a model whose training has not ended, from its last checkpoint.
        json: Print one JSON object on standard output, and everything else on standard error.
    """
    torch.set_num_threads(threads)
    with json_object(json) as record:
        loaded = open_model(model, unfinished)
        for name, sample in samples(open_sets(loaded, choice, model, seed)).items():
            x = sample.x
            notes = [*checked(loaded, x, seed, own_elbo), *loaded.notes]
            say(f"OK: {name}, {n_data(x):,} data, {latent_size(loaded.model)} latents")
            for note in notes:
                say(f"  note: {note}")
            record[name] = {"n": n_data(x), "latents": latent_size(loaded.model), "notes": notes}
