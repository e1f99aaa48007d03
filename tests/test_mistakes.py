"""Mistakes that users make, each through Python and through the shell where it applies: the message, the exit code, at
most three lines, and no half-written folder.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import elbowroom as er
from elbowroom.cli import main
from elbowroom.datasets import binarize, load_array, load_dataset
from elbowroom.results import WORKERS
from elbowroom.training import load_model

N, P, D = 12, 20, 4
MODELS = """
import torch
from torch import nn
from torch.nn.functional import dropout
import elbowroom as er

P, D = 20, 4
torch.manual_seed(0)
decoder, encoder = nn.Linear(D, P), nn.Linear(P, 2 * D)

class Forgetful(nn.Module):
    def forward(self, z):
        return dropout(decoder(z), 0.5, training=True)

class Detached(nn.Module):
    def forward(self, z):
        return decoder(z.detach())

class Bent(nn.Module):
    def forward(self, x):
        return encoder(x) + x.mean()

def model_of(network, likelihood="bernoulli"):
    return er.DecoderModel(network, likelihood, D)

q = er.Amortized(encoder, er.DiagonalGaussian(D))

def right(): return model_of(decoder), q
def sigmoid(): return model_of(nn.Sequential(decoder, nn.Sigmoid())), q
def swapped(): return q, model_of(decoder)
def bare_decoder(): return decoder, q
def tensor_for_q(): return model_of(decoder), torch.zeros(3, P)
def small_q(): return model_of(decoder), er.Amortized(nn.Linear(P, 6), er.DiagonalGaussian(3))
def odd_encoder(): return model_of(decoder), er.Amortized(nn.Linear(P, 7), er.DiagonalGaussian(D))
def unsummed(): return er.FunctionModel(lambda x, z: z.sum(-1, keepdim=True).expand(*z.shape[:2], 3), D), q
def narrow_decoder(): return model_of(nn.Linear(D + 1, P)), q
def with_dropout(): return model_of(Forgetful()), q
def detached(): return model_of(Detached()), q
def batch_bound(): return model_of(decoder), er.Amortized(Bent(), er.DiagonalGaussian(D))
def network_answer(): return model_of(decoder), encoder
def alone(): return model_of(decoder)
def raises(): return undefined_name
def unknown_likelihood(): return model_of(decoder, "bernouli"), q
def two_channels(): return model_of(decoder, er.likelihoods.gaussian("decoder")), q
def no_scale(): return model_of(decoder, er.likelihoods.gaussian(0.0)), q
"""


@pytest.fixture
def place(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`shared` as the working directory. Every test leaves it as it was, or puts back what it takes."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(shared)
    return shared


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models, good and bad data, runs and folders in every state."""
    tmp_path, before = tmp_path_factory.mktemp("mistakes"), Path.cwd()
    os.chdir(tmp_path)
    paths, modules, dtype = list(sys.path), set(sys.modules), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    (tmp_path / "mine.py").write_text(MODELS)
    x = np.random.default_rng(0).integers(0, 2, (N, P))
    np.save("x.npy", x.astype(np.float32))
    np.save("pixels.npy", (255 * x).astype(np.uint8))
    np.save("bits.npy", x.astype(np.uint8))
    np.save("one.npy", x[0].astype(np.float32))
    np.save("nan.npy", np.full((N, P), np.nan, dtype=np.float32))
    np.save("narrow.npy", x[:, :-1].astype(np.float32))
    np.save("empty.npy", np.zeros((0, P), dtype=np.float32))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez("several.npz", a=x, b=x)
    np.savetxt("x.csv", x, delimiter=",")
    for name in ("x.h5", "x.parquet", "text.npy", "w.pkl"):
        (tmp_path / name).write_text("no array")
    save_file({"q.strange": torch.zeros(2)}, "strange.safetensors")
    for name in ("images", "busy", "damaged/data", "newer", "stopped", "unfinished"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "images/0.png").touch()
    (tmp_path / "busy/thesis.tex").touch()
    (tmp_path / "damaged/run.json").write_text('{"schema": 3, "parts": {"part-00000.parquet": "0"}}')
    (tmp_path / "newer/run.json").write_text('{"schema": 99}')
    (tmp_path / "stopped" / WORKERS).mkdir()
    config = {"architecture": {}, "training": {"epochs": 50, "epochs_done": 4}}
    (tmp_path / "unfinished/config.json").write_text(json.dumps(config))
    (tmp_path / "unfinished/checkpoint.safetensors").touch()
    model, q = factory("right")
    er.decompose(model, q, load_array("x.npy")[:2], plan="quick").save("taken")
    torch.set_default_dtype(dtype)
    os.chdir(before)
    yield tmp_path
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        if name == "mine":
            del sys.modules[name]


def factory(name: str) -> tuple[Any, Any]:
    """What a factory of `MODELS` returns."""
    names: dict[str, Any] = {}
    exec(MODELS, names)
    return names[name]()


def measured(name: str = "right", x: Any = "x.npy", **options: Any) -> er.Gaps:
    """A ladder by the cheapest plan."""
    model, q = factory(name)
    data = load_array(x) if isinstance(x, str) else x
    return er.decompose(model, q, data, **{"plan": "quick", **options})


def gaps(model: str = "mine.py:right", data: str = "x.npy", *more: str) -> list[str]:
    return ["gaps", "--model", model, "--data", data, "--plan", "quick", "--out", "run", *more]


def named(name: str) -> list[str]:
    return gaps(f"mine.py:{name}")


Mistake = tuple[Callable[[], object] | None, list[str] | None, str]


def in_model(name: str, message: str) -> Mistake:
    """A factory whose model or posterior is wrong."""
    return lambda: measured(name), named(name), message


def in_check(name: str, message: str) -> Mistake:
    """The same, where only `check` looks deep enough."""
    return lambda: er.check(*factory(name), load_array("x.npy")), named(name), message


def in_data(file: str, message: str) -> Mistake:
    """Data that are read, and do not suit the model."""
    return lambda: measured(x=file), gaps(data=file), message


def in_file(file: str, message: str) -> Mistake:
    """A file that cannot be read as data."""
    return lambda: load_array(file), gaps(data=file), message


def in_target(folder: str, message: str) -> Mistake:
    """A folder into which no run can be saved."""
    return lambda: er.load_gaps("taken").save(folder), [*gaps()[:-1], folder], message


def in_run(folder: str, message: str) -> Mistake:
    """A folder that holds no whole run."""
    return lambda: er.load_gaps(folder), ["report", folder], message


def in_options(options: list[str], message: str, **same: Any) -> Mistake:
    """Wrong options, and the same as arguments where there are any."""
    return (lambda: measured(**same)) if same else None, [*gaps(), *options], message


MISTAKES: dict[str, Mistake] = {
    # the model and the posterior
    "a decoder that ends in a sigmoid": in_model("sigmoid", "every output of the decoder lies in [0, 1], like prob"),
    "swapped arguments": in_model("swapped", "The order of the arguments is (model, q, x)"),
    "a decoder for a model": in_model("bare_decoder", "er.DecoderModel(decoder, likelihood, latent_shape) makes"),
    "data for q": in_model("tensor_for_q", "q must be a posterior, such as er.Amortized"),
    "a network for q": in_model("network_answer", "(or use er.Amortized for a network that returns parameters)"),
    "a q of another size": in_model("small_q", "q must give z of shape (2, 8, 4)"),
    "an encoder with too few numbers": in_model("odd_encoder", "must emit 8 numbers per datum"),
    "a density that is not summed": in_model("unsummed", "Sum over pixels before returning"),
    "a decoder of other latents": in_model("narrow_decoder", "log_likelihood failed on the first rows of x: Runtime"),
    "a decoder without its second output": in_model("two_channels", "x must be shaped like"),
    "dropout that is always on": in_check("with_dropout", "must be deterministic in eval mode"),
    "detached latents": in_check("detached", "must be differentiable in z"),
    "an encoder that mixes the batch": in_check("batch_bound", "q of a datum must not depend on its batch"),
    "a misspelled likelihood": (None, named("unknown_likelihood"), "bernouli"),
    "a scale of zero": (None, named("no_scale"), "scale must be positive; got 0.0"),
    # the data
    "pixels from 0 to 255": in_data("pixels.npy", "got values from 0 to 255. Convert 8-bit images by"),
    "one datum without its leading axis": in_data("one.npy", "needs a leading axis, x[None]"),
    "data of another width": in_data("narrow.npy", "x must be shaped like the decoder"),
    "8-bit integers": (lambda: measured(x=load_array("bits.npy").to(torch.uint8)), None, "networks take floating"),
    "an integer array": (lambda: measured(x=np.zeros((3, P), dtype=int)), None, "x holds int64, and networks take"),
    "data that can only be iterated": (lambda: measured(x=iter([1])), None, "only be iterated must be stacked"),
    "no data at all": in_file("empty.npy", "expected an array with one datum per row; got shape (0, 20)"),
    "values that are not finite": in_file("nan.npy", "240 of 240 values are not finite"),
    "words": in_file("words.npy", "expected an array of real numbers; got <U1"),
    "an array of objects": in_file("objects.npy", "without running code"),
    "several arrays": in_file("several.npz", "expected one array, or one named x; got"),
    "a file that is no array": in_file("text.npy", "text.npy: cannot be read as .npy"),
    "a file that is not there": in_file("y.npy", "y.npy: no such file"),
    "a table of text": in_file("x.csv", 'np.save("x.npy", np.loadtxt("x.csv", delimiter=","'),
    "an HDF5 file": in_file("x.h5", 'np.save("x.npy", h5py.File("x.h5")["x"][:])'),
    "a Parquet file": in_file("x.parquet", 'pd.read_parquet("x.parquet").to_numpy(float)'),
    "a folder of images": in_file("images", 'glob.glob("images/*.*")'),
    "a pickle": in_file("w.pkl", "expected a file ending in .npz, .npy"),
    "an unknown data set": (lambda: load_dataset("cifar"), gaps(data="cifar"), "no data set is named"),
    # options and arguments
    "an unknown rule": (
        lambda: binarize(torch.zeros(2, 2, dtype=torch.uint8), "round"),
        [*gaps(data="pixels.npy"), "--binarize", "round"],
        "round",
    ),
    "an unknown plan": (lambda: measured(plan="fast"), ["gaps", "--model", "mine.py:right", "--plan", "fast"], "quick"),
    "more to refine than there are": in_options(["--refine-on", "13"], "12, the number of data", refine_on=13),
    "a KL weight of zero": in_options(["--kl-weight", "0"], "kl_weight must be positive", kl_weight=0.0),
    "more rows than there are": in_options(["--n", "13"], "--n 13: expected 1 to 12, the number of data in x"),
    "an unknown device": in_options(["--device", "abacus"], "--device abacus"),
    "weights of another model": in_options(["--weights", "strange.safetensors"], "strange.safetensors"),
    "identities that are not unique": (lambda: measured(ids=[0] * N), None, "ids must be unique"),
    "labels of other data": (lambda: measured(groups=[1, 2]), None, "one entry per datum, 12; got 2"),
    "an unknown schedule": (lambda: er.ais(factory("right")[0], torch.zeros(3, P), kind="cosine"), None, "adaptive"),
    "no chains": (lambda: er.ais(factory("right")[0], torch.zeros(3, P), n_chains=0), None, "n_chains must be at le"),
    "a step by another name": (lambda: measured().step("amortisation"), None, 'Did you mean "amortization"?'),
    "a step that was not measured": (lambda: measured().gaussianity, None, 'Ask for it with plan="flow"'),
    # the factory
    "a model without its posterior": (None, named("alone"), "the factory must return (model, q)"),
    "a factory that is not there": (None, named("wright"), "mine.py has no function wright; it has"),
    "no factory": (None, gaps("mine.py"), "expected package.module:factory, file.py:factory, the folder of"),
    # folders
    "an unfinished training": (lambda: load_model("unfinished"), gaps("unfinished"), "unfinished: epoch 4 of 50"),
    "a folder that is no model": (lambda: load_model("busy"), gaps("busy"), "busy: expected a model's folder with"),
    "a folder with a run": in_target("taken", "taken"),
    "a folder of other files": in_target("busy", "is not empty and holds no run"),
    "a file in the folder's place": in_target("x.npy", "file"),
    "a folder without a run": in_run("busy", "busy holds no run: run.json is missing"),
    "a damaged run": in_run("damaged", "is missing or was changed since it was written"),
    "a run of a newer version": in_run("newer", "newer has schema 99; this version reads"),
    "an interrupted run": in_run("stopped", "stopped holds a run that was interrupted"),
}
OF_THE_USERS_OWN = {"a misspelled likelihood", "a scale of zero"}  # raised in a factory, so its traceback comes first


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts)


@pytest.mark.parametrize("mistake", [name for name, (python, _, _) in MISTAKES.items() if python])
def test_a_mistake_in_python(mistake: str, place: Path) -> None:
    python, _, message = MISTAKES[mistake]
    assert python is not None
    before = listing(place)
    with pytest.raises((ValueError, TypeError, FileNotFoundError, AttributeError)) as caught:
        python()
    text = str(caught.value)
    assert message in text
    assert len(text.splitlines()) <= 3
    assert listing(place) == before


@pytest.mark.parametrize("mistake", [name for name, (_, shell, _) in MISTAKES.items() if shell])
def test_a_mistake_in_a_shell(mistake: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, shell, message = MISTAKES[mistake]
    assert shell is not None
    before = listing(place)
    assert main(shell) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]  # those say what is being measured
    if mistake in OF_THE_USERS_OWN:
        assert lines[0].startswith("Traceback")
        lines = lines[-1:]
    assert lines[0].startswith("elbowroom: error: ")
    assert len(lines) <= 3
    assert message in "\n".join(lines)
    assert not out
    assert listing(place) == before


def test_there_are_thirty_through_both_doors() -> None:
    both = [name for name, (python, shell, _) in MISTAKES.items() if python and shell]
    assert len(both) >= 30


def test_the_lines_that_convert_a_table_convert_it(place: Path) -> None:
    with pytest.raises(ValueError, match="convert it with") as caught:
        load_array("x.csv")
    expected, before = load_array("x.npy"), (place / "x.npy").read_bytes()
    (place / "x.npy").unlink()
    exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), {})
    assert torch.equal(load_array("x.npy"), expected)
    (place / "x.npy").write_bytes(before)


@pytest.mark.parametrize("name", ["x.h5", "x.parquet", "images"])
def test_the_lines_that_convert_other_files_are_python(name: str, place: Path) -> None:
    with pytest.raises(ValueError, match="convert it with") as caught:
        load_array(name)
    compile("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), name, "exec")


def test_a_mistake_leaves_networks_as_they_were(place: Path) -> None:
    model, q = factory("sigmoid")
    modes = [module.train().training for module in (model, q)]
    with pytest.raises(er.CheckError):
        er.decompose(model, q, load_array("x.npy"))
    assert [module.training for module in (model, q)] == modes
    assert isinstance(q, nn.Module)
