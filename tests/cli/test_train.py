"""The commands that make models, as a user says them."""

import json
import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.cli.options import FamilyName
from elbowroom.core import write_atomically
from elbowroom.datasets import binarize, demo_images
from elbowroom.training import family_names, load_model

from ..training.test_fit import same, state

READERS = [import_module(f"elbowroom.cli.{name}") for name in ("data_spec", "train", "repair")]  # of data sets
QUICK = ["--latents", "3", "--encoder", "12", "--decoder", "12", "--batch-size", "25", "--threads", "1"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a small data set in the place of MNIST."""
    torch.set_default_dtype(torch.float32)  # the type that users have
    images = {name: (255 * x).to(torch.uint8) for name, x in demo_images().items()}
    small = {"train": images["train"], "test": images["heldout"][:60]}

    def read(name: str, split: str, folder: Path | None, binarization: str, seed: int) -> torch.Tensor:
        return binarize(small[split], binarization, seed)

    for module in READERS:
        monkeypatch.setattr(module, "read_data", read)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "config.json").read_text())


def test_the_command_in_a_config_makes_the_model_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "3", "--seed", "4", "--family", "auxiliary", "--annealing", "kl", "--warmup", "2", "--half"]
    assert main(["train", "mnist", *QUICK, *options, "--binarize", "gray256", "--out", "first"]) == 0
    config = config_of("first")
    words = config["command"].split()
    assert words[0] == "elbowroom"
    assert words[-2:] == ["--out", "first"]
    assert main([*words[1:-1], "second"]) == 0
    assert (place / "first/model.safetensors").read_bytes() == (place / "second/model.safetensors").read_bytes()
    assert config_of("second") == config | {"command": config["command"].replace("first", "second")}
    out = capsys.readouterr().out
    assert f"ELBO of the 60 test data: {config['test_elbo']['mean']:.2f} nats" in out


def test_every_option_reaches_the_run(place: Path) -> None:
    options = ["--epochs", "2", "--objective", "iwae", "--samples", "3", "--schedule", "stepped"]
    options += ["--learning-rate", "1e-4", "--patience", "2", "--heldout", "50", "--family", "full"]
    assert main(["train", "mnist", *QUICK, *options]) == 0
    config = config_of("zoo/mnist")
    said = {"epochs": 2, "objective": "iwae", "n_samples": 3, "schedule": "stepped", "learning_rate": 1e-4}
    assert (said | {"patience": 2}).items() <= config["training"].items()
    assert config["data"]["n"] == 200
    assert config["architecture"]["family"] == "full"
    assert config["architecture"]["encoder_hidden"] == [12]
    log = [json.loads(line) for line in Path("zoo/mnist/epochs.jsonl").read_text().splitlines()]
    assert all(line["heldout_elbo"] < 0 for line in log)


def test_models_of_epochs_can_be_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "3", "--keep", "2,1"]) == 0
    assert not same(*(state(*load_model(f"zoo/mnist/epoch-{epoch}")[:2]) for epoch in (1, 2)))
    assert main(["gaps", "--model", "zoo/mnist/epoch-1", "--n", "20", "--plan", "quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"].keys() == {"train", "test"}


def test_linear_networks_and_a_frozen_decoder(place: Path) -> None:
    few = ["--latents", "3", "--epochs", "2", "--threads", "1"]
    assert main(["train", "mnist", *few, "--encoder", "12", "--decoder", "linear", "--out", "whole"]) == 0
    again = ["--encoder", "linear", "--frozen", "whole", "--family", "flow", "--out", "encoder"]
    assert main(["train", "mnist", *few, *again]) == 0
    (before, _, _), (after, q, config) = (load_model(folder) for folder in ("whole", "encoder"))
    assert same(state(before), state(after))
    assert config["architecture"]["decoder_hidden"] == config["architecture"]["encoder_hidden"] == []
    assert q.family is not None
    assert q.family.name == "flow"
    assert "--frozen whole" in config["command"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latents", "7"], "its n_latent is 3; leave out the option that asks for 7"),
        (["--decoder", "11"], r"its decoder_hidden is (12,); leave out the option that asks for (11,)"),
        (["--likelihood", "gaussian", "--scale", "0.3"], "its likelihood is bernoulli; leave out"),
        (["--networks", "conv"], "its networks is mlp; leave out"),
    ],
)
def test_an_option_against_the_frozen_decoder_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    few = ["train", "mnist", "--epochs", "1", "--threads", "1"]
    assert main([*few, "--latents", "3", "--decoder", "12", "--out", "whole"]) == 0
    assert main([*few, "--frozen", "whole", "--out", "encoder", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("encoder").exists()
    assert main([*few, "--frozen", "whole", "--out", "encoder", "--latents", "3", "--decoder", "12"]) == 0


def test_a_frozen_decoder_brings_its_kind_of_networks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(60, 3, 32, 32).round()
    for module in READERS:
        monkeypatch.setattr(module, "read_data", lambda *_, **__: images)
    few = ["train", "cifar10", "--epochs", "1", "--threads", "1"]
    assert main([*few, "--networks", "conv", "--decoder", "4-4-4", "--encoder", "4-4-4", "--out", "whole"]) == 0
    assert main([*few, "--frozen", "whole", "--out", "encoder"]) == 0
    a = config_of("encoder")["architecture"]
    assert (a["networks"], a["encoder_hidden"], a["decoder_hidden"]) == ("conv", [64, 128, 256], [4, 4, 4])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(50, 9) * 255, 'likelihood "bernoulli" takes values from 0 to 1; got values from'),
        (torch.rand(50), "expected one datum per row, (N, P); got shape (50,)"),
    ],
)
def test_an_array_that_does_not_suit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], x: torch.Tensor, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", x.numpy())
    assert main(["train", "x.npy", "--epochs", "1", "--out", "m"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("m").exists()


def test_gray_images_under_a_bernoulli_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--binarize", "gray256"]) == 0
    assert "gray values under a Bernoulli likelihood: an unnormalized quantity" in capsys.readouterr().out


def test_a_repair_broken_off_before_its_measurement_is_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", "poor"]) == 0
    words = ["repair", "poor", "--epochs", "2", "--n", "10", "--threads", "1"]
    assert main([*words, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("elbowroom.cli.repair.write_config", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            main(words)
    weights = Path("poor-repaired/model.safetensors").read_bytes()
    assert main([*words, "--seed", "1"]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(words) == 0
    assert Path("poor-repaired/model.safetensors").read_bytes() == weights
    assert config_of("poor-repaired")["repair"] == config_of("whole")["repair"]
    assert main(words) == 2


def test_repair_of_the_folder_one_stands_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", "poor"]) == 0
    monkeypatch.chdir("poor")
    assert main(["repair", ".", "--epochs", "1", "--n", "10", "--threads", "1"]) == 0
    assert (place / "poor-repaired/model.safetensors").exists()


def test_eight_bit_images_are_reported_in_bits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "1", "--likelihood", "discretized_logistic", "--scale", "decoder"]
    assert main(["train", "mnist", *QUICK, *options]) == 0
    assert config_of("zoo/mnist")["data"]["binarize"] == "gray"
    nats = config_of("zoo/mnist")["test_elbo"]["mean"]
    said = capsys.readouterr().out
    bits = float(said.split(" bits per dimension")[0].split()[-1])
    assert bits == pytest.approx(-nats / math.log(2) / 784, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "200x200"], "200x200: expected widths such as 200-200, or linear"),
        (["--encoder", "0"], "sizes must be positive integers"),
        (["--networks", "conv"], "convolutional networks take images of"),
        (["--likelihood", "gaussian"], "gaussian needs scale"),
        (["--heldout", "250"], "--heldout 250: expected fewer than the 250 training data"),
        (["--heldout", "-1"], "Must be >= 0"),
        (["--threads", "0"], "Must be > 0"),
        (["--scale", "0.1"], "bernoulli has no scale; got 0.1, leave it out"),
        (
            ["--likelihood", "discretized_logistic", "--scale", "learned", "--binarize", "threshold"],
            "--binarize threshold: discretized_logistic takes pixels k / 255, so --binarize gray",
        ),
        (["--frozen", "nowhere"], "nowhere: expected a model's folder"),
        (["--objective", "iwae", "--warmup", "3"], "objective iwae has no terms to weigh"),
        (["--keep", "1-3"], "--keep 1-3: expected epochs such as 1,10,100"),
        (["--keep", "2"], "keep: expected epochs from 1 to 1; got 2"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["train", "mnist", "--epochs", "1", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("elbowroom: error")]) == 1
    assert not list(place.iterdir())


@pytest.mark.parametrize("out", ["taken", "taken/model"])
def test_a_file_in_the_place_of_the_folder_is_refused_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (place / "taken").write_text("mine")
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", out]) == 2
    assert "a model is saved as a folder, and this is a file: taken" in capsys.readouterr().err
    assert (place / "taken").read_text() == "mine"


def test_a_run_that_was_broken_off_is_gone_on_with(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "mnist", *QUICK, "--epochs", "4", "--checkpoint-seconds", "0", "--out"]
    assert main([*words, "whole"]) == 0
    write: Callable[..., None] = write_atomically

    def cut(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == "checkpoint.safetensors":
            raise KeyboardInterrupt

    monkeypatch.setattr("elbowroom.training.weight_files.write_atomically", cut)
    assert main([*words, "run"]) == 130
    monkeypatch.setattr("elbowroom.training.weight_files.write_atomically", write)
    capsys.readouterr()
    assert main([*words, "run"]) == 0
    assert (place / "run/model.safetensors").read_bytes() == (place / "whole/model.safetensors").read_bytes()


def test_repair_makes_a_drop_in_and_says_what_came_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "30", "--learning-rate", "0.003", "--out", "good"]) == 0
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--frozen", "good", "--out", "poor"]) == 0
    capsys.readouterr()
    options = ["--epochs", "150", "--learning-rate", "0.01", "--batch-size", "25", "--n", "50", "--threads", "1"]
    assert main(["repair", "poor", *options]) == 0
    out = capsys.readouterr().out
    share = int(out.split("%")[0].split()[-1])
    assert share >= 50  # 250 images teach an encoder no more; the real ones are in test_external
    assert "saved in poor-repaired, to be used in place of poor" in out
    (old, _, _), (new, q, config) = (load_model(folder) for folder in ("poor", "poor-repaired"))
    assert same(state(old), state(new))
    assert config["repaired"] == "poor"
    assert q.family is not None
    assert q.family.name == "diagonal"
    assert main(["repair", "poor"]) == 2
    assert "poor-repaired: holds a model already" in capsys.readouterr().err


def test_repair_with_an_encoder_of_another_size_and_family(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", "poor"]) == 0
    options = ["--encoder", "20-20", "--family", "flow", "--clip-norm", "50", "--epochs", "1", "--n", "10"]
    assert main(["repair", "poor", *options, "--out", "other"]) == 0
    a, training = config_of("other")["architecture"], config_of("other")["training"]
    assert (a["encoder_hidden"], a["family"], training["clip_norm"]) == ([20, 20], "flow", 50)
    assert "The new q is flow" in capsys.readouterr().out


def test_a_run_broken_off_before_its_test_is_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command then only measures; another one, or a third time, finds a finished model."""
    words = ["train", "mnist", *QUICK, "--epochs", "2", "--clip-norm", "150", "--half", "--out", "m"]
    with monkeypatch.context() as patch:
        patch.setattr("elbowroom.cli.train._report_test", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            main(words)
    assert "test_elbo" not in config_of("m")
    weights = Path("m/model.safetensors").read_bytes()
    assert main([*words, "--seed", "1"]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(words) == 0
    assert config_of("m")["test_elbo"]["n"] == 60
    assert "--clip-norm 150 " in config_of("m")["command"]
    assert Path("m/model.safetensors").read_bytes() == weights
    assert main(words) == 2


def test_every_family_is_an_option() -> None:
    assert get_args(FamilyName) == tuple(family_names())


def test_a_configs_command_leaves_out_what_is_the_machines(place: Path) -> None:
    options = ["--epochs", "1", "--device", "cpu", "--checkpoint-seconds", "5", "--clip-norm", "100", "--half"]
    assert main(["train", "mnist", *QUICK, *options, "--out", "m"]) == 0
    words = config_of("m")["command"].split()
    assert not {"--device", "--checkpoint-seconds", "--data-dir"} & set(words)
    assert words[:3] == ["elbowroom", "train", "mnist"]
    assert words[-2:] == ["--out", "m"]
    assert {"--half", "--clip-norm", "--latents", "--epochs"} <= set(words)


def test_a_training_that_is_finished_says_how_to_measure_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", "m"]) == 0
    assert "m: 1 epoch on 250 data in " in capsys.readouterr().out
    assert main(["train", "mnist", *QUICK, "--epochs", "1", "--out", "m"]) == 2
    assert "m: this training is finished; measure it with elbowroom gaps --model m" in capsys.readouterr().err
