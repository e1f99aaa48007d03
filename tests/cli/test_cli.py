"""The command line, in process: what it prints, its exit codes, what it writes, and every error as one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.cli.app import HELP, HUGE_PAGES
from elbowroom.cli.data_spec import Sets, samples
from elbowroom.cli.model_spec import open_model
from elbowroom.datasets import DATASETS, binarize, demo_images, load_array
from elbowroom.evidence import EvidencePlan
from elbowroom.measure import PLANS, TruthRow, off, run_selftest
from elbowroom.measure.selftest import CASES
from elbowroom.scale import Crew, Left, WorkersError
from elbowroom.training import demo_model, save_model

N_SMALL = 30
FACTORIES = """
import torch
import elbowroom as er

def factory():
    generator = torch.Generator().manual_seed(0)
    model = er.LinearGaussian(torch.randn(6, 2, generator=generator), torch.zeros(6), 0.5)
    net = torch.nn.Linear(6, 4)
    torch.nn.init.constant_(net.weight, 0.1)
    torch.nn.init.constant_(net.bias, -0.5)
    return model, er.Amortized(net, er.DiagonalGaussian(2))

def with_sets():
    generator = torch.Generator().manual_seed(1)
    sets = {name: torch.randn(n, 6, generator=generator) for name, n in (("train", 40), ("test", 30))}
    return *factory(), sets

def without_a_number():
    model, q = factory()
    model.log_likelihood = lambda x, z: 0 * z.sum(-1) + float("nan")
    return model, q

def without_a_number_in_a_block():
    model, q = factory()
    plain = model.log_likelihood
    model.log_likelihood = lambda x, z: plain(x, z) * (float("nan") if len(x) == 32 else 1)
    return model, q

def sums_wrongly():
    model, q = factory()
    model.log_likelihood = lambda x, z: -(x - model.decode(z, x)) ** 2
    return model, q

def returns_a_model():
    return factory()[0]

def names_a_path():
    return *factory(), {"../elsewhere": torch.zeros(3, 6)}

def empty_set():
    return *factory(), {"train": torch.zeros(0, 6)}

def fails():
    return 1 / 0

constant = 3
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """More threads only wait for each other on models this small. `conftest` puts their number back."""
    torch.set_num_threads(1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with `models.py`, and files of good and bad data."""
    monkeypatch.chdir(tmp_path)
    before = list(sys.path), set(sys.modules)
    (tmp_path / "models.py").write_text(FACTORIES)
    (tmp_path / "broken.py").write_text("def factory(:\n")
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(N_SMALL, 6)))
    np.save("empty.npy", np.zeros((0, 6)))
    np.save("complex.npy", np.zeros((4, 6), dtype=complex))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("nan.npy", np.full((4, 6), np.nan))
    np.save("narrow.npy", np.zeros((4, 5)))
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "text.safetensors").write_text("no")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "notes.txt").write_text("mine")
    yield tmp_path
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if name == "models":
            del sys.modules[name]


def listing(folder: Path) -> list[str]:
    """Every file and folder, caches of Python apart."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts)


GAPS = ["gaps", "--model", "models.py:factory", "--data", "x.npy", "--plan", "quick"]
WRONG: dict[str, tuple[list[str], str]] = {
    "no command of that name": (["measure"], "measure"),
    "an unknown option": ([*GAPS, "--bogus", "1"], "bogus"),
    "no model": (["gaps", "--data", "x.npy"], "--model is required; see elbowroom gaps --help"),
    "nothing to train on": (["train"], "DATASET is required; see elbowroom train --help"),
    "a spec without a function": (["gaps", "--model", "models.py", "--data", "x.npy"], "package.module:factory"),
    "no such file": (["gaps", "--model", "nowhere.py:factory", "--data", "x.npy"], "nowhere.py: no such file"),
    "no such module": (["gaps", "--model", "no_such_module:factory", "--data", "x.npy"], "no module of that name"),
    "no such function": (["gaps", "--model", "models.py:fabric", "--data", "x.npy"], "no function fabric; it"),
    "no function at all": (["gaps", "--model", "models.py:constant", "--data", "x.npy"], "no function constant"),
    "a model alone": (["gaps", "--model", "models.py:returns_a_model", "--data", "x.npy"], "must return (model, q)"),
    "sets that name a path": (["gaps", "--model", "models.py:names_a_path"], "must map names to data"),
    "an empty set": (["gaps", "--model", "models.py:empty_set"], "at least one row"),
    "no data": (["gaps", "--model", "models.py:factory"], "--data is needed"),
    "no such data": ([*GAPS[:3], "--data", "y.npy"], "y.npy: no such file"),
    "data without a known ending": ([*GAPS[:3], "--data", "models.py"], "expected a file ending in"),
    "a damaged file": ([*GAPS[:3], "--data", "text.npy"], "text.npy: cannot be read"),
    "empty data": ([*GAPS[:3], "--data", "empty.npy"], "one datum per row"),
    "complex data": ([*GAPS[:3], "--data", "complex.npy"], "complex.npy: expected"),
    "words as data": ([*GAPS[:3], "--data", "words.npy"], "words.npy: expected"),
    "data that are not finite": ([*GAPS[:3], "--data", "nan.npy"], "24 of 24 values are not finite"),
    "data of another width": ([*GAPS[:3], "--data", "narrow.npy"], "x must be shaped like the decoder"),
    "more data than there are": ([*GAPS, "--n", "31"], "--n 31: expected 1 to 30"),
    "no data asked for": ([*GAPS, "--first", "0"], "--first 0: expected 1 to 30"),
    "both samples": ([*GAPS, "--first", "3", "--n", "3"], "exclude each other"),
    "an unknown plan": ([*GAPS[:-1], "slow"], "quick"),
    "more to refine than there is": ([*GAPS, "--refine-on", "31"], "--refine-on 31: expected 2 to 30"),
    "one to refine": ([*GAPS, "--n", "5", "--refine-on", "1"], "--refine-on 1: expected 2 to 5"),
    "a KL weight of nothing": ([*GAPS, "--kl-weight", "0"], "kl_weight must be positive"),
    "an unknown device": ([*GAPS, "--device", "abacus"], "--device abacus"),
    "no such weights": ([*GAPS, "--weights", "w.safetensors"], "w.safetensors: no such file"),
    "damaged weights": ([*GAPS, "--weights", "text.safetensors"], "damaged, or not a safetensors file"),
    "a folder of other files": ([*GAPS, "--out", "busy"], "not empty and holds no run"),
    "a file in the way": ([*GAPS, "--out", "x.npy"], "a file in its place"),
    "a file above": ([*GAPS, "--out", "x.npy/run"], "a file in its place"),
    "no number anywhere": (["gaps", "--model", "models.py:without_a_number", "--data", "x.npy"], "must be finite"),
    "no number past the check": (
        ["gaps", "--model", "models.py:without_a_number_in_a_block", "--data", "x.npy"], "none of the 30 data",
    ),
    "a density not summed": (["check", "--model", "models.py:sums_wrongly", "--data", "x.npy"], "must return (S, N)"),
    "no run to report": (["report", "busy"], "holds no run"),
    "nothing to report": (["report"], "needs the folder of a run"),
    "a dry run that takes hours": (
        [*GAPS, "--dry-run", "--refine-on", "10", "--refine-plan", "published"], "cannot time plan published"
    ),
    "no such data set": (["train", "letters"], "there are cifar10, fashion-mnist, mnist"),
    "no epochs": (["train", "mnist", "--epochs", "none"], "epochs"),
    "a demo of too many": (["demo", "--n", "251"], "expected 1 to 250"),
    "a demo in another's folder": (["demo", "--out", "x.npy"], "a file in its place"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_an_error_is_one_line(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = WRONG[what]
    before = listing(place)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" data ...")]  # those say what is measured
    assert len(lines) == 1
    assert lines[0].startswith("elbowroom: error: ")
    assert message in lines[0]
    assert not out
    assert listing(place) == before


@pytest.mark.parametrize(
    ("spec", "error", "frames"),
    [
        ("models.py:fails", "--model models.py:fails: the factory raised ZeroDivisionError: division by zero", 1),
        ("models:fails", "--model models:fails: the factory raised ZeroDivisionError: division by zero", 1),
        ("broken.py:factory", "--model broken.py: reading it raised SyntaxError: ", 0),
        ("broken:factory", "--model broken: importing it raised SyntaxError: ", 0),
    ],
)
def test_an_error_of_the_users_code_keeps_its_own_traceback(
    spec: str, error: str, frames: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Theirs and one line, no frame of ours."""
    assert main(["check", "--model", spec, "--data", "x.npy"]) == 2
    *shown, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"elbowroom: error: {error}")
    files = [line for line in shown if line.startswith("  File ")]
    assert len([file for file in files if ", in fails" in file]) == frames
    assert all(str(place) in file or "models.py" in file for file in files)
    assert shown[-1].split(":")[0] in ("ZeroDivisionError", "SyntaxError")


def test_a_json_object_is_all_of_standard_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GAPS, "--first", "12", "--out", "run", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    saved = er.load_gaps("run")
    assert str(saved) in shown.err
    run = record["runs"]["x"]
    assert run["n"] == 12
    assert run["folder"] == str(place / "run")
    rows = {row["name"]: row for row in run["rows"]}
    assert rows["amortization"]["mean"] == pytest.approx(saved.amortization.mean)
    assert rows["amortization"]["share"] == pytest.approx(saved.amortization.mean / saved.inference.mean)
    assert rows["log p(x)"]["side"] == "lower"
    assert run["flags"].keys() == {flag.name for flag in er.Flag}
    assert [finding["text"] for finding in record["verdict"]["x"]] == [str(it) for it in saved.verdict()]
    assert main(["report", "run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in again["runs"]["run"]["rows"]] == [row["name"] for row in run["rows"]]
    for row, before in zip(again["runs"]["run"]["rows"], run["rows"], strict=True):
        numbers = ("mean", "se", "mc_se")
        assert [row[key] for key in numbers] == pytest.approx([before[key] for key in numbers], rel=1e-12)
    assert main(["check", *GAPS[1:5], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"x": {"n": 30, "latents": 2, "notes": []}}
    assert main([*GAPS, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)["dry_run"]
    assert dry["n"] == [30]
    assert dry["seconds"][0] > 0
    assert dry["memory"] > 2**20


def test_a_dry_run_says_what_workers_and_machines_spare(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """120 data are three blocks, of which none is divided; the disk is known to a third."""
    np.save("many.npy", np.random.default_rng(1).normal(size=(120, 6)))
    asked = ["gaps", *GAPS[1:3], "--data", "many.npy", "--plan", "quick", "--workers", "2"]
    assert main([*asked, "--dry-run", "--json"]) == 0
    shown = capsys.readouterr()
    assert "time, 2 workers" in shown.err
    assert "time, 10 such machines" in shown.err
    dry = json.loads(shown.out)["dry_run"]
    alone, both, many = (dry["seconds_of_processes"][key][-1] for key in ("1", "2", "20"))
    assert (both / alone, many / alone) == pytest.approx((2 / 3, 1 / 3))
    assert main([*asked[:-2], "--out", "run"]) == 0
    spent = sum(path.stat().st_size for path in Path("run").rglob("*") if path.is_file())
    assert dry["disk"] == pytest.approx(spent, rel=0.33)


def test_a_number_that_is_not_finite_is_null(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GAPS, "--first", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert record["runs"]["x"]["rows"][0]["se"] is None


def test_a_run_says_where_its_data_come_from_and_how_it_was_made(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GAPS, "--first", "5", "--out", "run", "--json", "--threads", "1"]) == 0
    told = er.load_gaps("run").provenance
    assert {key: told["data"][key] for key in ("name", "set", "binarize", "n")} == {
        "name": "x.npy", "set": "x", "binarize": None, "n": 5,
    }  # fmt: skip
    assert told["command"] == "elbowroom gaps --model models.py:factory --data x.npy --first 5 --plan quick --out run"
    assert json.loads((place / "run/run.json").read_text())["machine"]["threads"] == 1


GREY = """
import torch
import elbowroom as er

def factory(likelihood="bernoulli"):
    torch.manual_seed(0)
    model = er.DecoderModel(torch.nn.Linear(2, 784), likelihood, 2)
    return model, er.Amortized(torch.nn.Linear(784, 4), er.DiagonalGaussian(2))

def gaussian():
    return factory(er.likelihoods.gaussian(0.5))

def own():
    return factory(lambda output: torch.distributions.Independent(torch.distributions.Normal(output, 1.0), 1))

def sorted_out():
    return *factory(), {"train": torch.zeros(4, 784), "test": torch.ones(3, 784)}
"""


@pytest.fixture
def gray(place: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A data set by name, of images whose pixels are gray, and factories for models of them."""
    torch.set_default_dtype(torch.float32)
    (place / "gray.py").write_text(GREY)
    images = torch.randint(0, 256, (12, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setitem(DATASETS, "mnist", lambda split, folder: images if split == "train" else images[:5])
    return images


@pytest.mark.parametrize(
    ("factory", "more", "rule"),
    [
        ("factory", [], "threshold"), ("gaussian", [], "gray"), ("factory", ["--binarize", "gray256"], "gray256"),
        ("own", ["--binarize", "stochastic", "--seed", "4"], "stochastic"),
    ],
)  # fmt: skip
def test_a_data_set_by_name_is_binarized_as_suits_the_likelihood(
    factory: str, more: list[str], rule: str, place: Path, gray: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gaps", "--model", f"gray.py:{factory}", "--data", "mnist", "--plan", "quick", "--out", "run", *more]
    assert main([*words, "--split", "test"]) == 0
    assert not (place / "run/train").exists()
    saved = er.load_gaps("run/test")
    assert saved.provenance["data"]["name"] == "mnist"
    assert saved.provenance["data"]["binarize"] == rule
    source = open_model(f"gray.py:{factory}")
    x = binarize(gray[:5], rule, 4)
    assert np.array_equal(er.decompose(source.model, source.q, x, plan="quick", seed=saved.seed).elbo.values,
                          saved.elbo.values)  # fmt: skip


def test_pixels_need_a_rule_where_none_suits(
    place: Path, gray: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--model", "gray.py:own", "--data", "mnist"]) == 2
    assert "say with --binarize what they become: threshold, stochastic, gray or gray256" in capsys.readouterr().err
    assert main(["check", "--model", "gray.py:sorted_out", "--binarize", "gray"]) == 2
    assert "brings data of its own, which are taken as they are" in capsys.readouterr().err
    assert main(["check", "--model", "gray.py:sorted_out", "--split", "valid"]) == 2
    assert "--split valid: expected one of train, test" in capsys.readouterr().err


def test_a_file_with_two_sets_is_measured_as_two(
    place: Path, gray: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("both.npz", train=gray[:7].numpy(), test=gray[7:].numpy())
    words = ["gaps", "--model", "gray.py:factory", "--data", "both.npz", "--plan", "quick", "--out", "run"]
    assert main(words) == 2
    assert "--binarize" in capsys.readouterr().err
    assert main([*words, "--binarize", "threshold"]) == 0
    assert [len(er.load_gaps(f"run/{name}")) for name in ("train", "test")] == [7, 5]


def test_threads_are_one_unless_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, threads in (([], 1), (["--threads", "2"], 2)):
        torch.set_num_threads(3)
        assert main(["check", *GAPS[1:5], *more]) == 0
        assert torch.get_num_threads() == threads


def test_completion_is_installed_by_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    assert main(["--install-completion", "--shell", "bash"]) == 0
    script = tmp_path / ".local/share/bash-completion/completions/elbowroom"
    assert "--refine-on" in script.read_text()
    assert str(script) in " ".join(capsys.readouterr().out.split()).replace(" ", "")


def test_an_unexpected_error_keeps_its_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr("elbowroom.cli.model_spec.check", broken)
    with pytest.raises(RuntimeError, match="size"):
        main(GAPS)


def test_an_interruption_is_no_traceback(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elbowroom.cli.model_spec.check", interrupted)
    assert main(GAPS) == 130
    assert capsys.readouterr().err == "elbowroom: interrupted\n"


def test_check_says_ok(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--model", "models:with_sets"]) == 0
    assert capsys.readouterr().out == "OK: train, 40 data, 2 latents\nOK: test, 30 data, 2 latents\n"


def test_a_run_is_what_decompose_gives_and_loads_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GAPS, "--out", "deep/run", "--n", "20", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    saved = er.load_gaps("deep/run")
    assert str(saved) in out
    assert "verdict" in out
    rows = torch.tensor(saved.ids)
    assert len(set(rows.tolist())) == 20 < int(rows.max()) < N_SMALL
    source = open_model("models.py:factory")
    assert isinstance(source.q, er.Amortized)
    assert isinstance(source.q.net, torch.nn.Linear)
    x = load_array("x.npy")
    direct = er.decompose(source.model, source.q, x[rows], plan="quick", seed=3, ids=rows.tolist())
    assert np.array_equal(direct.amortization.values, saved.amortization.values)
    assert main(["report", "deep/run"]) == 0
    assert str(saved) in capsys.readouterr().out


def test_a_run_is_replaced_only_when_asked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GAPS, "--out", "run", "--first", "5"]) == 0
    before = (place / "run" / "run.json").read_text()
    assert main([*GAPS, "--out", "run", "--first", "4"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (place / "run" / "run.json").read_text() == before
    assert main([*GAPS, "--out", "run", "--first", "4", "--overwrite"]) == 0
    assert er.load_gaps("run").ids.tolist() == list(range(4))


def test_every_set_of_a_factory_is_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gaps", "--model", "models.py:with_sets", "--plan", "quick", "--first", "7", "--out", "run"]) == 0
    both = {name: er.load_gaps(f"run/{name}") for name in ("train", "test")}
    assert [len(run) for run in both.values()] == [7, 7]
    assert not set(both["train"].ids) & set(both["test"].ids)
    assert not len(er.compare(both["test"], both["train"])["elbo"].values)  # different data: unpaired
    first = capsys.readouterr().out
    assert main(["report", "run"]) == 0
    again = capsys.readouterr().out
    for run in both.values():
        assert str(run) in first
        assert str(run) in again
    assert first.count("verdict") == again.count("verdict") == 1


def test_a_failed_save_keeps_the_blocks(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("elbowroom.measure.kept.write_run", full)
        assert main([*GAPS, "--first", "5", "--out", "a/b"]) == 2
    shown = capsys.readouterr()
    assert (
        "a/b: the run could not be saved (No space left on device); what was measured is printed above; its blocks are "
        "kept, and the same command saves it"
    ) in shown.err
    assert "log p(x)" in shown.out
    assert main([*GAPS, "--first", "5", "--out", "a/b"]) == 0
    assert len(er.load_gaps("a/b")) == 5


def test_samples_are_seeded_and_nested() -> None:
    x = torch.arange(50.0)[:, None]
    small, large = (samples(Sets(sets={"data": x}), n)["data"].ids for n in (10, 40))
    other = samples(Sets(sets={"data": x}), 40, seed=1)["data"].ids
    assert np.array_equal(small, large[:10])
    assert len(set(large)) == 40
    assert not np.array_equal(large, other)
    both = Sets(sets={"a": x, "b": x})
    picked = samples(both, 10)
    assert isinstance(picked["a"].x, torch.Tensor)
    assert torch.equal(picked["a"].x[:, 0], torch.from_numpy(picked["a"].ids).to(x))
    assert picked["b"].ids.min() >= 50
    alone = samples(replace(both, split="b"), 10)
    assert list(alone) == ["b"]
    assert np.array_equal(alone["b"].ids, picked["b"].ids)  # the same data have the same identities


def test_the_training_set_of_a_model_is_what_it_was_trained_on(
    place: Path, single_precision: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of data that --n or --heldout left out nobody may say that they are training data."""
    draws = np.random.default_rng(0)
    train, test = (draws.integers(0, 2, (60, 8)).astype(np.float32) for _ in range(2))
    np.savez("x.npz", train=train, test=test)
    for name, options in (("few", ["--n", "20"]), ("rest", ["--heldout", "40"])):
        assert main(["train", "x.npz", *options, "--epochs", "1", "--latents", "2", "--out", name]) == 0
        measure = ["gaps", "--model", name, "--plan", "quick", "--workers", "1", "--out", f"{name}-run"]
        assert main([*measure, "--n", "21"]) == 2
        assert "--n 21: expected 1 to 20, the number of data in train" in capsys.readouterr().err
        assert main([*measure, "--n", "12"]) == 0
        assert set(er.load_gaps(f"{name}-run/train").ids.tolist()) < set(range(20))
        assert set(er.load_gaps(f"{name}-run/test").ids.tolist()) < set(range(60, 120))
    assert main(["gaps", "--model", "few", "--plan", "quick", "--workers", "1", "--out", "all"]) == 0
    assert er.load_gaps("all/train").ids.tolist() == list(range(20))
    assert len(er.load_gaps("all/test")) == 60


def test_a_dry_run_measures_a_block_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("many.npy", np.random.default_rng(1).normal(size=(2500, 6)))
    before = listing(place)
    assert main(["gaps", *GAPS[1:3], "--data", "many.npy", "--plan", "quick", "--dry-run", "--out", "run"]) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows["data"].split()[1:] == ["100", "1,000", "2,500"]
    errors = [float(number) for number in rows["se of L[q]"].split()[-3:]]
    assert errors[0] == pytest.approx(errors[2] * 5, rel=0.02)
    assert "GiB" in out
    assert listing(place) == before


def test_a_two_phase_run_from_the_shell(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refine = ["--refine-on", "8", "--refine-plan", "standard"]
    assert main([*GAPS, *refine, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "30 data, plan quick, standard on 8, seed 0" in out
    assert "fit full: 8 converged, 22 not refined" in out
    saved = er.load_gaps("run")
    source = open_model("models.py:factory")
    assert isinstance(source.q, er.Amortized)
    assert isinstance(source.q.net, torch.nn.Linear)
    x = load_array("x.npy")
    direct = er.decompose(source.model, source.q, x, plan="quick", refine_on=8, refine_plan="standard")
    assert np.array_equal(direct.elbo.values, saved.elbo.values)
    assert [saved.inference.se, saved.inference.mc_se] == pytest.approx([direct.inference.se, direct.inference.mc_se])


def test_a_dry_run_of_two_phases_says_what_they_cost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The row of factorization, which only the refined data tell, does not gain from more data."""
    np.save("many.npy", np.random.default_rng(1).normal(size=(2500, 6)))
    asked = ["gaps", *GAPS[1:3], "--data", "many.npy", "--plan", "quick", "--refine-on", "100", "--dry-run"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["refined"][1:] == ["100", "100", "100"]
    assert len(set(rows["se of factorization"][-3:])) == 1
    errors = [float(number) for number in rows["se of L[q]"][-3:]]
    assert errors[0] > 3 * errors[2]
    assert "not refined" not in out


def test_weights_are_read_into_the_factorys_networks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_model("models.py:factory")
    assert isinstance(source.q, er.Amortized)
    assert isinstance(source.q.net, torch.nn.Linear)
    torch.nn.init.constant_(source.q.net.weight, 0.3)
    save_model("trained", source.q, source.model, {})
    weights = ["--weights", "trained/model.safetensors"]
    assert main([*GAPS, "--first", "10", "--out", "run", *weights]) == 0
    direct = er.decompose(source.model, source.q, load_array("x.npy")[:10], plan="quick")
    assert np.array_equal(er.load_gaps("run").elbo.values, direct.elbo.values)
    save_model("part", source.q.net, None, {})
    assert main([*GAPS, "--weights", "part/model.safetensors"]) == 2
    assert "is missing; expected model." in capsys.readouterr().err


def test_kl_weight_and_objective_reach_the_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GAPS, "--first", "5", "--kl-weight", "4"]) == 0
    assert "mismatch" in capsys.readouterr().out
    assert main([*GAPS, "--first", "5", "--objective", "iwae", "--device", "cpu"]) == 0
    assert "another objective (iwae)" in capsys.readouterr().out


def test_the_demo_on_a_few_images(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_default_dtype(torch.float32)  # the type that users have
    budgets = {"diagonal": replace(er.DiagonalGaussian.budget, n_steps=5, max_rounds=1)}
    evidence = EvidencePlan(n_importance=64, n_pilot=32, annealing=None)
    tiny = replace(PLANS["quick"], n_elbo=16, budgets=budgets, evidence=evidence)
    monkeypatch.setitem(PLANS, "quick", tiny)
    for n in (4, 3):  # the second replaces the first
        assert main(["demo", "--n", str(n), "--plan", "quick", "--workers", "1"]) == 0
        out = capsys.readouterr().out
        both = {name: er.load_gaps(f"elbowroom-demo/{name}") for name in ("train", "heldout")}
        for run in both.values():
            assert len(run) == n
            assert str(run) in out
        assert "verdict on heldout" in out
        assert out.splitlines()[-1].endswith(" s")
        assert not set(both["train"].ids) & set(both["heldout"].ids)


def test_the_demo_in_two_processes(place: Path) -> None:
    torch.set_default_dtype(torch.float32)
    assert main(["demo", "--n", "2", "--plan", "quick", "--out", "deep/demo"]) == 0
    model, q = demo_model()
    direct = er.decompose(model, q, demo_images()["heldout"][:2], plan="quick")
    assert er.load_gaps("deep/demo/heldout").elbo.values == pytest.approx(direct.elbo.values, abs=1e-3)


@pytest.fixture(scope="module")
def rows() -> list[TruthRow]:
    return run_selftest(0)


def test_the_selftest_passes(
    rows: list[TruthRow], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails by chance with probability FALSE_ALARM, 1e-6."""
    monkeypatch.setattr("elbowroom.cli.selftest.run_selftest", lambda seed, progress=None: rows)
    assert main(["selftest"]) == 0
    out = capsys.readouterr().out
    assert f"{len(rows)} of {len(rows)} lie within" in out
    assert "OFF" not in out
    assert {row.model for row in rows} == {case.name for case in CASES}
    assert all(row.error < 0.05 for row in rows)  # so that what it misses is small


def shifted(model: er.LinearGaussian, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """A likelihood with a constant too many."""
    return er.DecoderModel.log_likelihood(model, x, z) + 0.2


def test_the_selftest_finds_a_wrong_density(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("elbowroom.measure.selftest.CASES", CASES[:2])
    monkeypatch.setattr(er.LinearGaussian, "log_likelihood", shifted)
    assert main(["selftest"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.endswith("OFF")]
    assert any("L[q] " in line for line in wrong)
    assert any("log p(x)" in line for line in wrong)


@pytest.mark.parametrize(
    ("quantity", "by", "found"),
    [
        ("L[q]", 6, True), ("L[q]", -6, True), ("L[q]", 2, False), ("log p(x)", 6, True), ("log p(x)", -6, False),
        ("sandwich, above", -6, True), ("sandwich, above", 6, False), ("factorization", -1e6, True),
        ("log p(x)", float("nan"), True),
    ],
)  # fmt: skip
def test_the_selftest_tells_sides_apart(rows: list[TruthRow], quantity: str, by: float, found: bool) -> None:
    """A number moved by so many errors from the truth is off on the sides where it may not be."""
    moved = [replace(row, estimate=row.truth + by * row.error) if row.quantity == quantity else row for row in rows]
    assert bool(off(moved)) is found


def test_training_makes_a_folder_that_gaps_measures(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_default_dtype(torch.float32)
    images = (255 * demo_images()["train"]).to(torch.uint8)
    monkeypatch.setitem(DATASETS, "mnist", lambda split, folder: images if split == "train" else images[:50])
    assert main(["train", "mnist", "--epochs", "2", "--latents", "3", "--n", "100", "--kl-weight", "2"]) == 0
    out = capsys.readouterr().out
    assert "elbowroom gaps --model zoo/mnist --n 250 --kl-weight 2" in out
    config = json.loads((place / "zoo/mnist/config.json").read_text())
    assert config["training"]["epochs_done"] == 2
    assert main(["train", "mnist", "--epochs", "1"]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(["gaps", "--model", "zoo/mnist", "--n", "5", "--plan", "quick", "--out", "run"]) == 0
    assert er.load_gaps("run/test").ids.min() >= 250
    monkeypatch.delitem(DATASETS, "mnist")  # a file of data does without the data set
    np.save("images.npy", images[:4].numpy() // 255)
    assert main(["check", "--model", "zoo/mnist", "--data", "images.npy"]) == 0


def test_every_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "selftest", "check", "gaps", "train", "data", "report", "runs"):
        assert main([command, "--help"]) == 0
        assert f"Usage: elbowroom {command}" in capsys.readouterr().out
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "selftest", "check", "gaps", "train", "data", "report", "runs"))


def test_the_entry_point() -> None:
    """As installed: a table on standard output, an error on standard error, and the exit code."""
    program = [sys.executable, "-c", "import sys; from elbowroom.cli import main; sys.exit(main())"]
    version = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
    assert version.stdout == f"{er.__version__}\n"
    failed = subprocess.run([*program, "report", "nowhere"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("elbowroom: error: nowhere does not exist; a run is saved by")
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_what_needs_no_model_needs_no_torch(words: list[str]) -> None:
    code = f"import sys; from elbowroom.cli import main; main({words}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_command_has_a_help_text_and_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in HELP.items():
        assert main([name, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert shown.startswith(f"Usage: elbowroom {name}")
        assert text.splitlines()[0].replace("`", "") in shown


@pytest.mark.parametrize(("before", "within"), [(None, "1"), ("0", "0")])
def test_torch_may_use_huge_pages_while_a_command_runs(
    before: str | None, within: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv(HUGE_PAGES, raising=False)
    else:
        monkeypatch.setenv(HUGE_PAGES, before)
    lines = ("import os, pathlib", "from models import factory", f"told = os.environ['{HUGE_PAGES}']")
    (place / "told.py").write_text("\n".join([*lines, "pathlib.Path('told').write_text(told)"]))
    assert main(["check", "--model", "told.py:factory", "--data", "x.npy"]) == 0
    assert (place / "told").read_text() == within
    assert os.environ.get(HUGE_PAGES) == before


@pytest.mark.parametrize("options", [[], ["--out", "run"]])
def test_a_folder_that_is_not_kept_is_not_promised(
    options: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(crew: Crew, name: str, left: Left) -> None:
        raise WorkersError("all worker processes were killed")

    monkeypatch.setattr(Crew, "work", stop)
    words = ["gaps", "--model", "models.py:with_sets", "--plan", "quick", "--workers", "2", *options]
    assert main(words) == 2  # two sets of one block each
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("elbowroom: error: all worker processes were killed")
    assert ("the same command goes on" in error) == bool(options)
