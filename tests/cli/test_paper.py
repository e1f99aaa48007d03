"""`elbowroom paper`: lists, refuses, and makes pages from rows that are kept."""

import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import data_spec, lab, main
from elbowroom.cli.lab import ZooLab
from elbowroom.cli.measuring import work_on_models
from elbowroom.cli.request import sent
from elbowroom.cli.run_folders import alone
from elbowroom.cli.terminal import UserError
from elbowroom.experiments import EXPERIMENTS, SCALES, Findings, Lab, NamedArrays, Trained, decide

from ..experiments.test_experiments import TINY, Stand


@pytest.fixture
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of two experiments, as a measurement keeps them."""
    folder = tmp_path_factory.mktemp("rows")
    for model in {*EXPERIMENTS["decoder-size"].models, *EXPERIMENTS["larger-encoder"].models}:
        for name, gaps in Stand().gaps(model).items():
            gaps.save(folder / "quick" / model / name)
    return folder


def test_the_list_has_a_line_for_each_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == main(["paper", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == 2 * list(EXPERIMENTS)


def test_pages_and_figures_are_made_from_rows(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("decoder-size", "larger-encoder"):
        assert main(["paper", name, "--from", str(rows), "--out", str(tmp_path)]) == 0
        page = (tmp_path / f"{name}.md").read_text()
        assert f"`elbowroom paper {name} --scale quick`" in page
        assert "- time of" not in page  # nothing was measured
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    out = capsys.readouterr().out
    n_claims = sum(len(EXPERIMENTS[name].claims) for name in ("decoder-size", "larger-encoder"))
    assert out.count("standard errors") == n_claims  # a line for each


def test_pages_and_figures_made_again_from_the_same_rows_are_the_same(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a page that is made again in a repository would always differ there."""
    made = []
    for day in (1, 2):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(day * 86_400))  # the clock of matplotlib
        out = tmp_path / str(day)
        assert main(["paper", "decoder-size", "--from", str(rows), "--out", str(out)]) == 0
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert sorted(made[0]) == ["decoder-size.md", "decoder-size.pdf", "decoder-size.png"]
    assert made[0] == made[1]


def test_trainings_with_other_seeds_are_found_beside_the_first(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed counts if all models of the experiment were trained with it."""
    models = EXPERIMENTS["decoder-size"].models
    for seed, trained in ((1, models), (2, models[:1])):
        for model in trained:
            shutil.copytree(rows / "quick" / model, rows / "quick" / f"{model}-seed-{seed}")
    for name, runs in (("decoder-size", "2 runs"), ("larger-encoder", "one run")):
        assert main(["paper", name, "--from", str(rows), "--out", str(tmp_path)]) == 0
        page = (tmp_path / f"{name}.md").read_text()
        assert f"| {runs} |" in page
        for model in EXPERIMENTS[name].models:
            assert page.count(f"| {model}, seed 1 |") == (2 if runs == "2 runs" else 0)
            assert f"{model}, seed 2" not in page
    capsys.readouterr()


def test_a_further_seed_of_some_models_decides_their_claims_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, place = EXPERIMENTS["flow-amortization"], tmp_path / "rows" / "quick"
    pair = experiment.claims[0].models
    for suffix, models in (("", experiment.models), ("-seed-1", pair), ("-seed-2", pair[1:])):
        for model in models:
            for name, gaps in Stand().gaps(model).items():
                gaps.save(place / (model + suffix) / name)
            np.savez(place / (model + suffix) / "parameters.npz", parameters=np.array(7), weights="")
    assert main(["paper", "flow-amortization", "--from", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "flow-amortization.md").read_text()
    assert (page.count("| 2 runs |"), page.count("| one run |")) == (2, len(experiment.claims) - 2)
    for model in experiment.models:
        assert page.count(f"| {model}, seed 1 |") == (2 if model in pair else 0)
    assert "seed 2" not in page
    capsys.readouterr()


@pytest.mark.parametrize("removed", ["train", "heldout", "heldout/run.json"])
def test_models_of_a_further_seed_of_which_not_all_is_kept_leave_the_others(
    removed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept of one model is not whole; what is kept of others decides the claims about them."""
    experiment, place = EXPERIMENTS["flow-amortization"], tmp_path / "rows" / "quick"
    for suffix in ("", "-seed-1"):
        for model in experiment.models:
            for name, gaps in Stand().gaps(model).items():
                gaps.save(place / (model + suffix) / name)
            np.savez(place / (model + suffix) / "parameters.npz", parameters=np.array(7), weights="")
    broken = experiment.models[1]
    kept = place / f"{broken}-seed-1" / removed
    shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    assert main(["paper", "flow-amortization", "--from", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "flow-amortization.md").read_text()
    assert (page.count("| 2 runs |"), page.count("| one run |")) == (len(experiment.claims) - 2, 2)
    assert f"| {broken}, seed 1 |" not in page
    assert "left out" not in capsys.readouterr().out


def test_it_is_said_why_a_further_seed_is_left_out(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of seed 1 are damaged, or not there, for one model of three."""
    place, models = rows / "quick", EXPERIMENTS["decoder-size"].models
    for model in models:
        shutil.copytree(place / model, place / f"{model}-seed-1")
    asked = ["paper", "decoder-size", "--from", str(rows), "--out", str(tmp_path)]
    broken = f"{models[0]}-seed-1"
    (part,) = (place / broken / "train" / "data").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    for why in ("seed 1 and those after it are left out: ", f"seed 1 is left out, since {broken} is not in the zoo"):
        assert main(asked) == 0
        assert f"decoder-size: {why}" in capsys.readouterr().out
        assert "| one run |" in (tmp_path / "decoder-size.md").read_text()
        shutil.rmtree(place / broken / "train", ignore_errors=True)


def test_a_further_seed_that_lacks_what_all_claims_take_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two models was trained with seed 1; of the other the ladders are kept, and the arrays are not."""
    zoo_lab = ZooLab(SCALES["cpu"], tmp_path / "zoo", tmp_path / "out", None, None, 1)
    experiment = EXPERIMENTS["refinement"]
    one, other = experiment.models
    (tmp_path / "zoo" / f"{one}-seed-1").mkdir(parents=True)
    (tmp_path / "zoo" / f"{one}-seed-1" / "model.safetensors").touch()
    folder = tmp_path / "out" / "data" / "cpu" / f"{other}-seed-1"
    for name, gaps in Stand().gaps(other).items():
        gaps.save(folder / name)
    assert not list(zoo_lab.further_trainings(experiment))
    assert f"refinement: seed 1 is left out, since {other}-seed-1 is not in the zoo" in capsys.readouterr().out
    np.savez(folder / "refined.npz", elbo=np.zeros(1), weights="")
    assert len(list(zoo_lab.further_trainings(experiment))) == 1
    assert "left out" not in capsys.readouterr().out  # of seed 2 there is nothing


def test_rows_that_are_missing_are_noticed_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model is in the zoo, and of the other, which is not, only arrays are kept."""
    zoo_lab = ZooLab(SCALES["cpu"], tmp_path / "zoo", tmp_path / "out", None, None, 1)
    (tmp_path / "zoo" / "fashion-decoder-0").mkdir(parents=True)
    (tmp_path / "zoo" / "fashion-decoder-0" / "model.safetensors").touch()
    (tmp_path / "out" / "data" / "cpu" / "fashion-brief").mkdir(parents=True)
    np.savez(tmp_path / "out" / "data" / "cpu" / "fashion-brief" / "more.npz", x=np.zeros(1))
    monkeypatch.setattr(ZooLab, "_measured", lambda self, models: pytest.fail(f"measured {models}"))
    with pytest.raises(er.RunError, match="fashion-brief"):
        zoo_lab.gaps_of(["fashion-decoder-0", "fashion-brief"])


def test_a_further_seed_of_which_only_arrays_are_kept_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = EXPERIMENTS["posterior-2d"]
    (model,) = experiment.models
    for suffix in ("", "-seed-1"):
        folder = tmp_path / "rows" / "quick" / (model + suffix)
        folder.mkdir(parents=True)
        np.savez(folder / "planes.npz", x=np.arange(12.0), weights="")

    def run(lab: Lab) -> Findings:
        x = lab.arrays(model, "planes", lambda trained: {})["x"]
        return Findings(
            header=("model",), rows=[[model]], decisions=[decide(experiment.claims[0], er.Estimate("x", x))],
            draw=lambda figure: None,
        )  # fmt: skip

    monkeypatch.setitem(EXPERIMENTS, "posterior-2d", replace(experiment, run=run))
    assert main(["paper", "posterior-2d", "--from", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    assert "| 2 runs |" in (tmp_path / "posterior-2d.md").read_text()
    capsys.readouterr()


def test_rows_of_further_seeds_are_enough_where_their_models_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    np.savez("x.npz", train=np.eye(24, dtype=np.float32), test=np.eye(24, dtype=np.float32))
    models = EXPERIMENTS["decoder-size"].models
    for model in models:
        for seed, suffix in (("0", ""), ("1", "-seed-1")):
            train = ["train", "x.npz", "--epochs", "1", "--latents", "2", "--seed", seed]
            assert main([*train, "--out", f"zoo/{model}{suffix}"]) == 0
    asked = ["paper", "decoder-size", "--out", "out", "--workers", "1"]
    pages = []
    for removed, anew in (((), ()), (models[:1], models[1:]), (models[1:], ())):  # in the end all of them
        for model in removed:
            shutil.rmtree(f"zoo/{model}-seed-1")
        for model in anew:
            shutil.rmtree(f"out/data/quick/{model}-seed-1")
        assert main(asked) == 0
        pages.append(Path("out/decoder-size.md").read_text().split("## How it was made")[0])
    assert "| 2 runs |" in pages[0]
    assert pages[0] == pages[1] == pages[2]
    capsys.readouterr()


def test_the_page_of_claims_has_what_was_measured(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "claims", "--from", str(rows), "--out", str(tmp_path)]) == 0
    page, out = (tmp_path / "claims.md").read_text(), capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        is_there = name in ("decoder-size", "larger-encoder")
        assert (f"## {name}\n" in page) == is_there
        assert all((page.count(claim.estimand) == 1) == is_there for claim in experiment.claims)
    assert out.count("not decided") == len(EXPERIMENTS) - 2


def test_models_are_measured_once_and_their_rows_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three models of 60 small images, trained for an epoch, in the place of those that the experiment names."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    draws = np.random.default_rng(0)
    train, test = (draws.integers(0, 2, (60, 12)).astype(np.float32) for _ in range(2))
    np.savez("x.npz", train=train, test=test)
    for model in EXPERIMENTS["decoder-size"].models:
        assert main(["train", "x.npz", "--epochs", "1", "--latents", "2", "--out", f"zoo/{model}"]) == 0
    asked = ["paper", "decoder-size", "--out", "out", "--workers", "1"]
    capsys.readouterr()
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert out.count("amortization ") == 6  # a line for each set of each model
    assert "- time of" in Path("out/decoder-size.md").read_text()
    blocks = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("block-*.parquet")}
    assert len(blocks) == 6
    assert main(asked) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("block-*.parquet")} == blocks
    page = Path("out/decoder-size.md").read_text().split("## How it was made")[0]
    assert main([*asked, "--from", "out/data"]) == 0
    assert Path("out/decoder-size.md").read_text().split("## How it was made")[0] == page
    assert main(["paper", "decoder-size", "--out", "shared", "--workers", "2"]) == 0
    assert Path("shared/decoder-size.md").read_text().split("## How it was made")[0] == page


def test_rows_that_another_command_is_saving_are_waited_for(
    two_models: ZooLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that write one folder would each remove the other's part; the second finds the rows there."""
    found = two_models.gaps_of(["a", "b"])["a"]["train"]
    saves: list[Path] = []
    monkeypatch.setattr(er.Gaps, "save", lambda gaps, folder, overwrite=False: saves.append(folder))
    shutil.move("out/data/quick/a/train", "elsewhere")
    with alone(Path("out/runs/quick/a/rows-train")):
        second = threading.Thread(target=two_models._kept, args=("a", "train", found))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        shutil.move("elsewhere", "out/data/quick/a/train")
    second.join()
    assert saves == []
    shutil.rmtree("out/data/quick/a/train")
    two_models._kept("a", "train", found)
    assert saves == [Path("out/data/quick/a/train")]


@pytest.fixture
def two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZooLab:
    """A lab beside a zoo of two models, "a" and "b", of the same data."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    np.savez("x.npz", train=np.eye(24, dtype=np.float32), test=np.eye(24, dtype=np.float32))
    for n, model in enumerate("ab"):
        assert main(["train", "x.npz", "--epochs", "1", "--latents", f"{n + 1}", "--out", f"zoo/{model}"]) == 0
    return ZooLab(SCALES["quick"], Path("zoo"), Path("out"), None, None, 1)


def test_a_worker_measures_all_sets_of_all_models(two_models: ZooLab) -> None:
    """Of data that it is sent, and it reports the sets by the names of their models; its blocks are those of a lab."""
    reported: set[str] = set()
    asked = {model: two_models._opened(model) for model in "ab"}
    names = [f"{model}/{name}" for model in "ab" for name in ("train", "test")]
    places = {name: Path("work", name) for name in names}
    sent_of = {model: (it.request, sent(it.chosen)) for model, it in asked.items()}
    work_on_models(sent_of, places, lambda name, done: reported.add(name))
    two_models.gaps_of(["a", "b"])
    assert reported == set(names)
    for name in names:
        found, expected = (sorted((base / name).rglob("block-*")) for base in (Path("work"), Path("out/runs/quick")))
        assert [path.name for path in found] == [path.name for path in expected]  # a name has the checksum of its block
        assert found


def test_rows_of_a_model_are_kept_before_the_next_is_measured(
    two_models: ZooLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str, gaps: er.Gaps) -> None:
        if name == "a/train":
            raise KeyboardInterrupt

    monkeypatch.setattr(lab, "_say_gaps", stop)
    with pytest.raises(KeyboardInterrupt):
        two_models.gaps_of(["a", "b"])
    assert {str(path.parent) for path in Path("out/data/quick").rglob("run.json")} == {
        "out/data/quick/b/train", "out/data/quick/b/heldout",
    }, "the last model of a table is measured first"  # fmt: skip


def test_a_folder_of_another_run_is_refused_before_anything_is_measured(two_models: ZooLab) -> None:
    two_models.gaps_of(["b"])
    shutil.move("out/runs/quick/b", "other/runs/quick/b")
    less = replace(two_models.scale, plan=replace(TINY, n_elbo=16))
    with pytest.raises(UserError, match=r"b/train.*Or name another --out"):
        ZooLab(less, Path("zoo"), Path("other"), None, None, 1).gaps_of(["a", "b"])
    assert not list(Path("other").rglob("a/**/block-*"))


def test_each_model_is_measured_on_the_data_that_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data are not read again for a model that was trained on the same, and only for such a one."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    reads: list[str] = []
    load = data_spec.load_array

    def counted(path: Path, **options: Any) -> torch.Tensor:
        reads.append(str(path))
        return load(path, **options)

    monkeypatch.setattr(data_spec, "load_array", counted)
    for data, seed in (("x", 0), ("y", 1)):
        draws = np.random.default_rng(seed)
        train, test = (draws.integers(0, 2, (30, 8)).astype(np.float32) for _ in range(2))
        np.savez(f"{data}.npz", train=train, test=test)
        for n in (1, 2):
            words = ["train", f"{data}.npz", "--epochs", "1", "--latents", f"{n}"]
            assert main([*words, "--out", f"zoo/{data}-{n}"]) == 0
    names, reads[:] = ["x-1", "x-2", "y-1", "y-2", "x-1"], []
    found = ZooLab(SCALES["quick"], Path("zoo"), Path("out"), None, None, 1).gaps_of(names)
    assert reads == ["y.npz"] * 2 + ["x.npz"] * 2  # of models of one data set the data are read once
    x, also_x, y, also_y = (np.asarray(found[name]["train"].fingerprint).tolist() for name in names[:4])
    assert x == also_x != y == also_y
    assert len(x) == 12


def test_arrays_are_made_once_for_the_weights_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    np.savez("x.npz", train=np.eye(24, dtype=np.float32), test=np.eye(24, dtype=np.float32))
    made: list[tuple[int, ...]] = []

    def make(trained: Trained) -> NamedArrays:
        made.append(tuple(trained.images["heldout"].shape))
        return {"answer": trained.q(trained.images["train"]).params["mean"].detach().numpy()}

    seen: list[NamedArrays] = []
    monkeypatch.setitem(EXPERIMENTS, "gaps", replace(EXPERIMENTS["gaps"], models=("small",), run=lambda lab: look(lab)))

    def look(lab: Lab) -> Findings:
        seen.append(lab.arrays("small", "answers", make))
        return Findings(header=(), rows=(), decisions=(), draw=lambda figure: None)

    for seed, n_made in (("0", 1), ("1", 2)):
        words = ["x.npz", "--epochs", "1", "--latents", "2", "--seed", seed, "--out", f"trained-{seed}"]
        assert main(["train", *words]) == 0
        shutil.rmtree("zoo", ignore_errors=True)
        shutil.copytree(f"trained-{seed}", "zoo/small")
        for options in ([], [], ["--from", "out/data"]):
            assert main(["paper", "gaps", "--out", "out", *options]) == 0
            assert len(made) == n_made
            assert list(seen[-1]) == ["answer"]
            assert np.array_equal(seen[-1]["answer"], seen[3 * (n_made - 1)]["answer"])
    assert made == [(12, 24)] * 2
    assert not np.array_equal(seen[0]["answer"], seen[-1]["answer"])


def made_by(trained: Trained) -> NamedArrays:
    """What another process can import, and who computed it."""
    mean = trained.q(trained.images["train"]).params["mean"].detach().numpy()
    return {"mean": mean, "process": np.array(os.getpid())}


def test_arrays_of_several_models_are_made_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    np.savez("x.npz", train=np.eye(24, dtype=np.float32), test=np.eye(24, dtype=np.float32))
    names = ["a", "b", "c"]
    for seed, model in enumerate(names):
        words = ["x.npz", "--epochs", "1", "--latents", "2", "--seed", f"{seed}", "--out", f"zoo/{model}"]
        assert main(["train", *words]) == 0
    by_one, by_two = (
        ZooLab(SCALES["quick"], Path("zoo"), Path(f"out-{n}"), None, None, n).arrays_of(names, "made", made_by)
        for n in (1, 2)
    )
    again = ZooLab(SCALES["quick"], Path("zoo"), Path("out-2"), None, None, 2).arrays_of(names, "made", made_by)
    for model in names:
        assert np.array_equal(by_one[model]["mean"], by_two[model]["mean"])
        assert by_one[model]["process"] == os.getpid()
        assert by_two[model]["process"] != os.getpid()
        assert again[model]["process"] == by_two[model]["process"], "what is kept is not made again"


@pytest.mark.parametrize("n_workers", [1, 2])
def test_arrays_of_different_images_are_not_compared(
    n_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any are made, and where they are kept of models that are gone."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    for seed in (0, 1):
        draws = np.random.default_rng(seed)
        train, test = (draws.integers(0, 2, (30, 8)).astype(np.float32) for _ in range(2))
        np.savez(f"x-{seed}.npz", train=train, test=test)
        words = ["train", f"x-{seed}.npz", "--epochs", "1", "--latents", "2"]
        assert main([*words, "--out", f"zoo/x-{seed}"]) == 0

    def reading(rows: Path | None = None) -> ZooLab:
        return ZooLab(SCALES["quick"], Path("zoo"), Path("out"), rows, None, n_workers)

    message = r"made: the images of x-1 and of x-0 differ.* Remove .*x-0/made.npz"
    with pytest.raises(UserError, match=message):
        reading().arrays_of(["x-0", "x-1"], "made", made_by)
    assert not Path("out").exists()
    for model in ("x-0", "x-1"):
        reading().arrays(model, "made", made_by)
    for rows in (None, Path("out/data")):
        with pytest.raises(UserError, match=message):
            reading(rows).arrays_of(["x-0", "x-1"], "made", made_by)


def test_models_that_saw_different_images_are_not_compared(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = EXPERIMENTS["decoder-size"].models
    gaps = er.load_gaps(rows / "quick" / second / "train")
    assert gaps.fingerprint is not None
    replace(gaps, fingerprint=gaps.fingerprint + 1).save(rows / "quick" / second / "train", overwrite=True)
    assert main(["paper", "decoder-size", "--from", str(rows)]) == 2
    assert f"{second} and {first} were measured on different images of train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decoder-sizes"], "expected list, all, claims or one of posterior-2d, gaps"),
        (["decoder-size", "--zoo", "nowhere"], "there is no such model. Name the folder of the models with --zoo"),
        (["decoder-size", "--from", "nowhere"], "does not exist"),
        (["claims", "--out", "nowhere"], "run elbowroom paper all first"),
    ],
)
def test_what_is_not_there_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_command_says_what_to_install(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["paper", "decoder-size", "--from", str(rows)]) == 2
    assert "pip install elbowroom[paper]" in capsys.readouterr().err
