"""Models of the zoo are trained where they are missing, by words that the command line takes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elbowroom.cli import recipes
from elbowroom.cli.app import app
from elbowroom.cli.recipes import RECIPES, TRAINED_QUICKLY, folder_of, train_models, training_words
from elbowroom.cli.run_folders import alone
from elbowroom.cli.terminal import UserError
from elbowroom.experiments import EXPERIMENTS, SCALES
from elbowroom.models import n_parameters
from elbowroom.training import build

from ..shared_runs import children_of, wait_until

ZOO = Path(__file__).parents[2] / "zoo"
ELSEWHERE = Path("/data/somebody's models")
KNOWN = [(name, scale) for scale in SCALES for name in (TRAINED_QUICKLY if scale == "quick" else RECIPES)]


@pytest.mark.parametrize(("name", "scale"), KNOWN)
def test_a_recipe_is_a_command(name: str, scale: str) -> None:
    words = training_words(name, ELSEWHERE, scale, seed=3)
    command, bound, _ = app.parse_args(["train", *words], exit_on_error=False, print_error=False)
    assert command.__name__ == "train_command"
    bound.apply_defaults()
    options = bound.arguments
    assert options["out"] == ELSEWHERE / folder_of(name, scale, 3)
    assert options["seed"] == 3
    if scale == "full" and name not in TRAINED_QUICKLY:
        assert options["steps"].schedule == "stepped"
        share = (options["data"].n or 60_000) / 60_000
        assert options["epochs"] * share == 3280
        if options["steps"].annealing != "none":
            assert options["steps"].warmup * share == (50 if name.startswith("cifar") else 400)
        assert options["networks"].family != "auxiliary"
    if name in TRAINED_QUICKLY:  # at all scales for as long as the experiment says
        assert (options["epochs"], options["steps"].schedule) == (100, "constant")
    if options["networks"].frozen is not None:
        assert options["networks"].frozen == ELSEWHERE / ("fashion-ffg-at-full" if scale == "full" else "fashion-ffg")


def test_every_model_of_an_experiment_is_there_or_is_trained() -> None:
    for experiment in EXPERIMENTS.values():
        for model in experiment.models:
            name, *epoch = model.split("/")
            assert name in RECIPES
            assert (ZOO / name / "config.json").exists() or name in TRAINED_QUICKLY
            if epoch:
                kept = re.search(r"--keep (\S+)", RECIPES[name])
                assert kept is not None
                assert epoch[0].removeprefix("epoch-") in kept.group(1).split(",")


def test_folders_say_the_scale_and_the_seed() -> None:
    assert folder_of("fashion-ffg") == folder_of("fashion-ffg", "quick") == "fashion-ffg"
    assert folder_of("fashion-ffg", "full", 2) == "fashion-ffg-at-full-seed-2"
    assert folder_of("fashion-epochs/epoch-3", "quick", 1) == "fashion-epochs-at-quick-seed-1/epoch-3"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, and recipes of small models for them."""
    np.savez(tmp_path / "x.npz", train=np.eye(24, dtype=np.float32), test=np.eye(24, dtype=np.float32))
    small = f"{tmp_path}/x.npz --latents 2 --encoder 5"
    monkeypatch.setattr(
        recipes,
        "RECIPES",
        {
            "kept": f"{small} --epochs 2",
            "epochs": f"{small} --epochs 2 --keep 1",
            "encoder": f"{small} --epochs 2 --frozen {{zoo}}/kept{{at}}",
            "bad": f"{small} --epochs 2 --decoder two",
            "long": f"{small} --epochs 100000",
        },
    )
    return tmp_path / "zoo"


def test_what_is_missing_is_trained_and_first_what_it_needs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_models(["encoder", "epochs/epoch-1"], place, workers=2)
    assert {path.parent.relative_to(place).as_posix() for path in place.rglob("model.safetensors")} == {
        "kept", "epochs", "epochs/epoch-1", "encoder",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert re.search(r"(?s)kept: 2 epochs on 24 data.*encoder: 2 epochs", said), "the other worker may speak between"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    train_models(["encoder", "epochs/epoch-1", "kept"], place, workers=2)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert not capsys.readouterr().out


def test_a_model_without_its_epochs_is_not_trained_over(place: Path) -> None:
    train_models(["epochs"], place)
    shutil.rmtree(place / "epochs" / "epoch-1")
    with pytest.raises(UserError, match="was trained without its models after some epochs; remove it to train it anew"):
        train_models(["epochs/epoch-1"], place)


def test_two_commands_do_not_train_into_one_folder(place: Path) -> None:
    with (
        alone(place / "kept", unless="it is mine"),
        pytest.raises(UserError, match="kept: another process trains it; run this command again"),
    ):
        train_models(["kept"], place)
    train_models(["kept"], place)


def test_files_of_the_current_folder_are_not_taken_for_modules(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    Path("queue.py").write_text("raise SystemExit('the wrong queue')")
    train_models(["kept"], place)
    assert (place / "kept" / "model.safetensors").exists()


def test_an_interrupt_that_only_this_process_sees_ends_its_trainings(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep the epochs that they have done."""

    def looking(words: object) -> int:
        if (place / "long" / "epochs.jsonl").exists():
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(recipes, "_epochs_done", looking)
    with pytest.raises(KeyboardInterrupt):
        train_models(["long"], place)
    assert (place / "long" / "checkpoint.safetensors").exists()
    assert not (place / "long" / "model.safetensors").exists()


def test_a_training_that_fails_is_one_line_and_stops_no_other(place: Path) -> None:
    with pytest.raises(UserError, match=r"^the training of bad failed: two: expected widths such as .*, or linear$"):
        train_models(["bad", "kept"], place, workers=1)
    assert (place / "kept" / "model.safetensors").exists()


def test_a_model_without_a_recipe_is_not_there(place: Path) -> None:
    with pytest.raises(UserError, match=r"unknown: there is no such model. Name the folder of the models with --zoo"):
        train_models(["unknown"], place)
    with pytest.raises(UserError, match=r"kept: there is no such model.* --scale cpu trains what is missing"):
        train_models(["kept"], place, "quick")  # to train it takes longer than a quick look


def is_running(pid: int) -> bool:
    """Whether it is a process, and not one that has ended and that nobody has asked for its exit code."""
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_training_ends_with_the_process_that_started_it(place: Path) -> None:
    """And it is gone on with: two trainings in one folder would write over each other's files."""
    code = (
        "import sys; from pathlib import Path; from elbowroom.cli import recipes\n"
        "recipes.RECIPES = {'long': sys.argv[1]}; recipes.train_models(['long'], Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, f"{recipes.RECIPES['long']} --checkpoint-seconds 0", str(place)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    wait_until(lambda: (place / "long" / "checkpoint.safetensors").exists())
    (training,) = [pid for pid, _ in children_of(process.pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_running(training))


def test_encoders_of_the_ladder_have_as_many_parameters_within_one_percent() -> None:
    counts = []
    for name in EXPERIMENTS["encoder-ladder"].models:
        _, q = build(json.loads((ZOO / name / "config.json").read_text())["architecture"])
        counts.append(n_parameters(q))
    assert max(counts) < 1.01 * min(counts)
