"""`elbowroom check`: what makes a model unmeasurable."""

from pathlib import Path

from ..core import n_data
from ..models import latent_size
from .inputs import checked, open_with_sets
from .terminal import say

__all__ = ["check_command"]


def check_command(*, model: str, data: Path | None = None, seed: int = 0) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        model: package.module:factory, file.py:factory, or the folder of a trained model.
        data: Array with one datum per row (.npy, .npz, .safetensors or .pt), in place of the factory's own sets.
        seed: Random seed.
    """
    loaded, sets = open_with_sets(model, data)
    for name, x in sets.items():
        notes = checked(loaded, x, seed)
        say(f"OK: {name}, {n_data(x)} data, {latent_size(loaded.model)} latents")
        for note in notes:
            say(f"  note: {note}")
