"""Every number that a set of small runs stores, so that two versions of the code can be compared bit for bit.

    python -m tools.bits record OLD.json          with the one version
    python -m tools.bits record NEW.json          with the other
    python -m tools.bits compare OLD.json NEW.json

A change that moves code about, and no number, ends in "equal". The runs: the demo's two sets; the plans quick,
standard, flow and precise on 50 images; a two-phase run; other families of q, a beta-VAE, a prior of the model's own
and a bimodal posterior; sandwiches; the lower doors; the selftest; and training of three kinds of q. One thread, and
one machine for both: elsewhere bits differ.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import elbowroom as er

N_DATA = 50
PLACES = {  # where what is not on the main path lives, and where it lived before there were rooms
    "demo_model": ("elbowroom.training:demo_model", "elbowroom.architecture:demo_model"),
    "demo_images": ("elbowroom.datasets:demo_images", "elbowroom.data:demo_images"),
    "selftest": ("elbowroom.measure:run_selftest", "elbowroom.selftest:run"),
}
APART = {
    "schema",
    "parts",
    "written",
    "versions",
    "machine",
    "rungs",
    "estimators",
    "provenance",
}  # no measured numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", help="record one of the runs alone")
    arguments = parser.parse_args()
    if arguments.action == "record":
        arguments.files[0].write_text(json.dumps(record(arguments.only), indent=1))
        return 0
    old, new = (json.loads(path.read_text()) for path in arguments.files)
    return compare(old, new)


def record(only: str | None) -> dict[str, dict[str, str]]:
    """Name of the run -> name of a stored array -> its digest."""
    torch.set_num_threads(1)
    digests: dict[str, dict[str, str]] = {}
    for name, run in runs().items():
        if only in (None, name):
            print(name, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                digests[name] = run(Path(folder))
    return digests


def compare(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> int:
    """Print what differs -> exit code."""
    different = [f"run {name} is in one file only" for name in sorted(set(old) ^ set(new))]
    n = 0
    for name in sorted(set(old) & set(new)):
        for array in sorted(set(old[name]) | set(new[name])):
            before, after = old[name].get(array, "absent"), new[name].get(array, "absent")
            n += 1
            if before != after:
                different.append(f"{name}: {array}: {before[:16]} {after[:16]}")
    print("\n".join(different) or f"equal: {n} arrays of {len(new)} runs, bit for bit")
    return 1 if different or not n else 0


def runs() -> dict[str, Callable[[Path], dict[str, str]]]:
    """The runs by name: each takes an empty folder to work in."""
    return {
        "demo": _demo,
        "quick": lambda folder: _shipped(folder, plan="quick"),
        "standard": lambda folder: _shipped(folder, plan="standard"),
        "flow": lambda folder: _shipped(folder, plan="flow"),
        "precise": lambda folder: _shipped(folder, plan="precise"),
        "two phases": lambda folder: _shipped(folder, plan="quick", refine_on=20),
        "groups and ids": lambda folder: _shipped(
            folder, plan="quick", groups=[i % 3 for i in range(N_DATA)], ids=list(range(100, 100 + N_DATA))
        ),
        "beta-VAE": lambda folder: _linear(folder, "diagonal", kl_weight=4.0),
        "q full": lambda folder: _linear(folder, "full"),
        "q flow": lambda folder: _linear(folder, "flow", plan="flow"),
        "q auxiliary": lambda folder: _linear(folder, "auxiliary"),
        "q callable": lambda folder: _linear(folder, "callable"),
        "q unknown": lambda folder: _linear(folder, "unknown"),
        "own prior": _own_prior,
        "bimodal": _bimodal,
        "sandwich": _sandwich,
        "lower doors": _lower_doors,
        "selftest": _selftest,
        "train diagonal": lambda folder: _train(folder, "diagonal"),
        "train auxiliary": lambda folder: _train(folder, "auxiliary"),
        "train flow": lambda folder: _train(folder, "flow"),
    }


def _demo(folder: Path) -> dict[str, str]:
    _command("demo", "--out", str(folder / "demo"))
    return {
        f"{name}/{array}": digest
        for name in ("train", "heldout")
        for array, digest in _stored(folder / "demo" / name).items()
    }


def _shipped(folder: Path, **options: Any) -> dict[str, str]:
    """The demo's model on the first held-out images."""
    model, q = _find("demo_model")()
    return _measured(folder, model, q, _find("demo_images")()["heldout"][:N_DATA], **options)


def _linear(folder: Path, kind: str, **options: Any) -> dict[str, str]:
    """A linear-Gaussian model of three latents with a q of each kind."""
    generator = torch.Generator().manual_seed(0)
    model = _linear_model(generator)
    x = model.sample_data(torch.randn(N_DATA, 3, generator=generator), None, generator)
    scale = model.precision().diagonal().rsqrt()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        q = _posterior(kind, model, scale)
        return _measured(folder, model, q, x, **options)


def _posterior(kind: str, model: er.LinearGaussian, scale: Tensor) -> Any:
    mean, distributions = model.posterior_mean, torch.distributions
    if kind == "callable":
        return lambda x: distributions.Independent(distributions.Normal(mean(x) + 0.2, 1.2 * scale), 1)
    if kind == "unknown":
        return lambda x: distributions.Independent(distributions.Laplace(mean(x), scale), 1)
    families = {
        "diagonal": er.DiagonalGaussian(3), "full": er.FullGaussian(3),
        "flow": er.CouplingFlow(3, n_features=4), "auxiliary": er.AuxiliaryFlow(3, hidden=16, n_features=4),
    }  # fmt: skip
    family = families[kind]

    def net(x: Tensor) -> Tensor:
        n_more = family.context_size - 6
        log_var = (2 * scale.log()).expand(len(x), 3)
        return torch.cat([mean(x) + 0.2, log_var, 0.1 * x.repeat(1, n_more)[:, :n_more]], -1)

    q = er.Amortized(net, family)
    for parameter in q.parameters():  # a network that starts at zero would not be seen
        nn.init.normal_(parameter, std=0.05)
    return q


def _own_prior(folder: Path) -> dict[str, str]:
    """A decoder with a mixture prior, which fits start from."""
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
        torch.distributions.Independent(
            torch.distributions.Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor(0.6)), 1
        ),
    )
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 2, generator=generator)
    model = er.DecoderModel(lambda z: z @ weight.T, er.likelihoods.gaussian(0.5), 2, prior=mixture)
    x = torch.randn(N_DATA, 5, generator=generator)
    q = er.Amortized(lambda x: torch.cat([x[:, :2], torch.zeros(len(x), 2)], -1), er.DiagonalGaussian(2))
    return _measured(folder, model, q, x)


def _bimodal(folder: Path) -> dict[str, str]:
    """x = z^2 + noise, an encoder on the positive root."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(N_DATA, 1, generator=generator)
    x = z.square() + 0.1 * torch.randn(N_DATA, 1, generator=generator)
    model = er.DecoderModel(lambda z: z.square(), er.likelihoods.gaussian(0.1), 1)
    log_var = 2 * math.log(0.1)
    q = er.Amortized(
        lambda x: torch.cat([x.clamp(min=1e-2).sqrt(), torch.full_like(x, log_var)], -1), er.DiagonalGaussian(1)
    )
    return _measured(folder, model, q, x, plan="precise")


def _sandwich(folder: Path) -> dict[str, str]:
    """Both sides, on the demo's model and on a linear-Gaussian one."""
    stored: dict[str, str] = {}
    for name, model, q in (("demo", *_find("demo_model")()), ("linear", _linear_model(torch.Generator()), None)):
        both = er.sandwich(model, n=N_DATA, q=q)
        for side in ("lower", "upper", "width"):
            stored |= _of_estimate(f"{name}/{side}", getattr(both, side))
        stored |= {f"{name}/{key}": _digest(getattr(both, key)) for key in ("z", "x", "flags")}
        stored[f"{name}/work"] = repr(both.work)
    return stored


def _lower_doors(folder: Path) -> dict[str, str]:
    """elbo, iwae, ais, fit_local and refine, of the demo's model on 60 images: more than a block."""
    (model, q), x = _find("demo_model")(), _find("demo_images")()["train"][:60]
    refined = er.refine(model, q, x[:20])
    fitted = er.fit_local(er.DiagonalGaussian(50), model, x[:20], init=q)
    estimates = {
        "elbo": er.elbo(model, q, x), "iwae": er.iwae(model, q, x, n_samples=200),
        "refined": er.elbo(model, refined, x[:20]), "fitted": er.elbo(model, fitted.q, x[:20]),
        "ais from the prior": er.ais(model, x, n_temperatures=10),
    }  # fmt: skip
    stored = {key: value for name, e in estimates.items() for key, value in _of_estimate(name, e).items()}
    local = er.ais(model, x[:20], base=fitted, n_temperatures=5)
    return stored | _of_estimate("ais from a fit", local)


def _selftest(folder: Path) -> dict[str, str]:
    rows = _find("selftest")(0)
    return {f"{i} {row.model}: {row.quantity}": repr(dataclasses.astuple(row)) for i, row in enumerate(rows)}


def _train(folder: Path, family: str) -> dict[str, str]:
    """Two epochs on the demo's training images."""
    array = folder / "images.npy"
    np.save(array, _find("demo_images")()["train"].numpy())
    options = ("--family", family, "--epochs", "2", "--batch-size", "50", "--encoder", "40", "--decoder", "40")
    _command("train", str(array), *options, "--out", str(folder / "model"))
    weights = sorted(map(_digest, load_file(folder / "model" / "model.safetensors").values()))  # whatever their names
    lines = [json.loads(line) for line in (folder / "model" / "epochs.jsonl").read_text().splitlines()]
    epochs = {f"epoch {line.pop('epoch')}": repr(sorted(line.items())) for line in lines if line.pop("seconds")}
    return epochs | {f"weights {i}": digest for i, digest in enumerate(weights)}


def _linear_model(generator: torch.Generator) -> er.LinearGaussian:
    generator.manual_seed(5)
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 3), (6,)))
    return er.LinearGaussian(weight.float(), bias.float(), 0.6)


def _measured(folder: Path, model: Any, q: Any, x: Tensor, **options: Any) -> dict[str, str]:
    er.decompose(model, q, x, **options).save(folder / "run")
    return _stored(folder / "run")


def _stored(run: Path) -> dict[str, str]:
    """All columns of a run's parts, and the numbers of its run.json."""
    meta = json.loads((run / "run.json").read_text())
    stored = {f"run.json {key}": json.dumps(value) for key, value in meta.items() if key not in APART}
    for part in sorted((run / "data").glob("*.parquet")):
        table = pq.read_table(part)
        stored |= {name: _digest(np.array(table[name].to_pylist())) for name in table.column_names}
    return stored


def _of_estimate(name: str, estimate: er.Estimate) -> dict[str, str]:
    noise = {f"{name}.noise{i}": _digest(part) for i, part in enumerate(estimate.noise.values())}
    return {name: _digest(estimate.values), f"{name} is": f"{estimate.name} {estimate.side}", **noise}


def _digest(array: Any) -> str:
    values = np.ascontiguousarray(array.detach().cpu().numpy() if isinstance(array, Tensor) else array)
    return hashlib.sha256(repr((values.dtype.str, values.shape)).encode() + values.tobytes()).hexdigest()


def _command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "elbowroom", *words], check=True, stdout=subprocess.DEVNULL)


def _find(name: str) -> Any:
    for place in PLACES[name]:
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"{name} is in none of {PLACES[name]}")


if __name__ == "__main__":
    sys.exit(main())
