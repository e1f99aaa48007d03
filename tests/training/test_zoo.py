"""The trained models that come with the project: what they claim, recomputed from their weights."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.cli.data_spec import read_data
from elbowroom.cli.recipes import RECIPES
from elbowroom.evidence import bounds
from elbowroom.measure import check
from elbowroom.training import load_model
from tools.zoo import KEPT, page

MODELS = Path(__file__).resolve().parents[2] / "zoo"
names = sorted(name for name in KEPT if (MODELS / name / "config.json").exists())
each_model = pytest.mark.parametrize("name", names)


def config_of(name: str) -> dict[str, Any]:
    return json.loads((MODELS / name / "config.json").read_text())


@each_model
def test_a_model_says_how_it_was_made(name: str) -> None:
    """The command in its config is its recipe, the log has a line for each epoch, the weights fit the networks."""
    config = config_of(name)
    threads = "--threads 1"  # the default, which is named where it was another
    words = shlex.split(config["command"].replace(threads, ""))
    assert words[:2] == ["elbowroom", "train"]
    assert words[-2:] == ["--out", f"zoo/{name}"]
    assert sorted(words[2:-2]) == sorted(shlex.split(RECIPES[name].format(zoo="zoo", at="").replace(threads, "")))
    epochs = [json.loads(line) for line in (MODELS / name / "epochs.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, config["training"]["epochs_done"] + 1))
    assert config["training"]["epochs_done"] == config["training"]["epochs"]
    load_model(MODELS / name)


def test_together_they_are_small_and_the_page_is_theirs() -> None:
    files = [path for name in names for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert not [path for path in files if path.name == "checkpoint.safetensors"]
    assert (MODELS / "README.md").read_text() == page(MODELS)


@pytest.fixture
def single_precision() -> None:
    """Weights and images are float32, whatever --dtype says; `torch_settings` puts the type back."""
    torch.set_default_dtype(torch.float32)


def opened(name: str, folder: Path) -> tuple[Any, Any, Any]:
    """(model, q, the test images it was trained for)"""
    said = config_of(name)["data"]
    x = read_data(said["name"], "test", folder, said["binarize"], said["seed"])
    return *load_model(MODELS / name)[:2], x


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.filterwarnings("ignore:gray values")
@each_model
def test_the_recorded_elbo_is_its_elbo(
    name: str, external_data: Path, single_precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within five Monte Carlo errors of both numbers, some 0.01 nats each, as they were recorded with other noise.

    Of a large model with an eighth of the draws, and so within 0.35 nats of some 900.
    """
    claimed = config_of(name)["test_elbo"]
    model, q, x = opened(name, external_data)
    n_samples = claimed["n_samples"]
    if config_of(name)["architecture"]["networks"] == "conv":
        torch.set_num_threads(2)  # large enough to gain by it; put back by `torch_settings`
        n_samples //= 8
        monkeypatch.setattr(bounds, "GROUP", n_samples)  # a whole group is computed, and cut
    found = bounds.elbo(model, q, x, n_samples=n_samples, seed=claimed["seed"])
    assert abs(found.mean - claimed["mean"]) < 5 * np.hypot(found.mc_se, claimed["mc_se"])


@pytest.mark.external
@pytest.mark.filterwarnings("ignore:gray values")
@each_model
def test_a_trained_model_passes_the_checks(name: str, external_data: Path, single_precision: None) -> None:
    """A well-trained BatchNorm too, whose ELBO differs by some 2 nats between train and eval mode."""
    model, q, x = opened(name, external_data)
    check(model, q, x[:256])


@pytest.mark.parametrize(("name", "published"), [("mnist-gray256-ffg", -95.27 - 1.5), ("fashion-ffg", -111.7 - 2.0)])
def test_models_are_as_good_as_replications(name: str, published: float) -> None:
    if name not in names:
        pytest.skip(f"{name} is not trained yet")
    assert config_of(name)["test_elbo"]["mean"] >= published


@pytest.mark.parametrize("data", ["mnist", "fashion"])
def test_the_auxiliary_flow_beats_the_diagonal_gaussian(data: str) -> None:
    """By two Monte Carlo errors on the same 10,000 test images, after the same training."""
    if not {f"{data}-af", f"{data}-ffg"} <= set(names):
        pytest.skip(f"{data}-af is not trained yet")
    flow, gaussian = (config_of(f"{data}-{kind}") for kind in ("af", "ffg"))
    own = ("compiled", "clip_norm")  # what a flow needs
    trained = ({k: v for k, v in config["training"].items() if k not in own} for config in (flow, gaussian))
    assert next(trained) == next(trained)
    flow, gaussian = flow["test_elbo"], gaussian["test_elbo"]
    assert flow["mean"] - gaussian["mean"] > 2 * math.hypot(flow["mc_se"], gaussian["mc_se"])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.external
@pytest.mark.filterwarnings("ignore:gray values")
def test_repair_brings_back_what_one_epoch_of_training_left(
    external_data: Path, single_precision: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """At least 80% of the capacity part of a held-out amortization gap of some 17 nats; reached: 83%."""
    monkeypatch.setenv("ELBOWROOM_DATA", str(external_data))
    poor = ["--binarize", "gray256", "--frozen", str(MODELS / "mnist-gray256-ffg"), "--epochs", "1", "--warmup", "0"]
    assert main(["train", "mnist", *poor, "--threads", "1", "--out", str(tmp_path / "poor")]) == 0
    assert main(["repair", str(tmp_path / "poor"), "--epochs", "30", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    print(said)
    nats, share = re.findall(r"recovers (\S+) \(se \S+\): (\d+)% of that part", said)[0]
    assert float(nats) > 10
    assert int(share) >= 80
