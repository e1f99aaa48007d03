"""Models of scvi-tools (Lopez and others 2018, Gayoso and others 2022) as (model, q, x).

The latents are z, before any transformation of it, and the logarithm of the library size where that is latent too:

    log p(x|z) = sum over genes of log p(x_g | decoder(z), library, batch, ...),    p(z) = N(0, I)

Where the library size is observed, the model is conditional on it: it is computed from the counts once and kept beside
them, so that simulated counts keep the library size for which they were simulated.
"""

from __future__ import annotations  # signatures in help() then show types by their names

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributions, nn

from ..core import forked, log_standard_normal, normal
from ..measure import check_own_number
from ..posteriors import Amortized, DiagonalGaussian
from .registry import Adapter

__all__ = ["SCVI_TOOLS", "scvi"]

MODELS = ("SCVI", "LinearSCVI")
OTHERS = {
    "TOTALVI": "its likelihood of proteins is a mixture that is not supported yet",
    "AUTOZI": "it has latents for genes, which all data share",
    "SCANVI": "its labels are latent for some of the data",
}
COUNTS, LIBRARY = "X", "library"  # of scvi's mapping of tensors, and ours beside it
ROWS_CHECKED = 64  # cells on which the ELBO is compared
HARMLESS = frozenset(  # what a saved model may ask to be built when it is read: tables and arrays
    {
        "builtins.bytes", "builtins.dict", "builtins.slice", "collections.OrderedDict", "collections.defaultdict",
        "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar", "numpy.dtype", "numpy.ndarray", "pandas._libs.internals._unpickle_block",
        "pandas.core.frame.DataFrame", "pandas.core.indexes.base.Index", "pandas.core.indexes.base._new_Index",
        "pandas.core.indexes.range.RangeIndex", "pandas.core.internals.managers.BlockManager",
        "torch.distributions.constraints._Real",
    }
)  # fmt: skip


class _Owner(Protocol):
    """What is used of a model of scvi-tools."""

    adata: object
    module: nn.Module
    history: dict[str, Any] | None

    def _make_data_loader(self, **arguments: object) -> Iterable[dict[str, Tensor]]: ...


class _Source(Protocol):
    """What is used of a module of scvi-tools."""

    n_latent: int
    use_observed_lib_size: bool
    training: bool
    latent_distribution: str
    z_encoder: nn.Module

    def train(self, mode: bool = True) -> object: ...
    def inference(self, **tensors: Tensor) -> dict[str, Any]: ...
    def generative(self, **tensors: Tensor) -> dict[str, Any]: ...
    def loss(self, tensors: dict[str, Tensor], encoded: object, decoded: object) -> Any: ...
    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]: ...
    def _get_generative_input(self, tensors: dict[str, Tensor], encoded: object) -> dict[str, Tensor]: ...


def scvi(model: object, indices: Sequence[int] | None = None) -> tuple[_CountModel, Amortized, dict[str, Tensor]]:
    """The model, the posterior and the data of a trained SCVI or LinearSCVI of scvi-tools.

    Args:
        model: the instance, with the AnnData that it was made with. It is left as it is.
        indices: the cells to measure; None for all of them.
    Returns:
        The model, q, and a mapping with the counts (N, genes) under "x" and the covariates that the model reads. The
        ELBO of the first cells is compared with the module's own loss.
    Raises:
        CheckError: the ELBO is not that of the module's own loss. It is a ValueError.
        TypeError: no model of scvi-tools, or one that cannot be measured; the reason is said.
        ValueError: data from which the counts were dropped ("minified").
    """
    module = cast(nn.Module, _module_of(model))
    source = cast(_Source, module)
    if getattr(module, "minified_data_type", None) is not None:
        raise ValueError("the model must have the counts of its cells; its AnnData is minified. Load the full one")
    x = _data_of(model, indices)
    names = tuple(name for name in x if name != "x")
    made = _CountModel(module, names)
    q = Amortized(_Encoder(module, names), DiagonalGaussian(made.latent_shape[0]), condition=names)
    _warn_of_weight(model)
    few = {name: value[:ROWS_CHECKED] for name, value in x.items()}
    check_own_number(made, q, few, lambda rows: _own_elbo(source, rows), seed=0)
    return made, q, x


class _CountModel(nn.Module):
    """p(z) p(x|z) of a module of scvi-tools. Rows of all draws and data go through its decoder at once."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names
        source = cast(_Source, module)
        self.latent_shape = (int(source.n_latent) + (not source.use_observed_lib_size),)

    def extra_repr(self) -> str:
        """How the library size is read, which torch prints before the networks."""
        observed = cast(_Source, self.module).use_observed_lib_size
        return f"{self.latent_shape[0]} latents, " + ("conditional on" if observed else "among them") + " the library"

    def log_prior(self, z: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        source = cast(_Source, self.module)
        size = int(source.n_latent)
        if source.use_observed_lib_size:
            return log_standard_normal(z)
        return log_standard_normal(z[..., :size]) + self._of_library(x).log_prob(z[..., size:]).sum(-1)

    def log_likelihood(self, x: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (N, genes) under "x", z (S, N, D) -> (S, N)."""
        s, n = z.shape[:2]
        px = self._of_counts(x, z)
        counts = x["x"].expand(s, *x["x"].shape).flatten(0, 1)
        return px.log_prob(counts).sum(-1).reshape(s, n)

    def sample_prior(self, n: int, x: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Draw n latents for each of the N rows of x: (n, N, D)."""
        e = normal((n, len(x["x"]), self.latent_shape[0]), generator, x["x"])
        if cast(_Source, self.module).use_observed_lib_size:
            return e
        library = self._of_library(x)
        return torch.cat([e[..., :-1], library.mean + library.stddev * e[..., -1:]], -1)

    def sample_data(self, z: Tensor, x: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Simulate counts for each z (N, D), with the covariates of x."""
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return {**x, "x": self._of_counts(x, z[None]).sample()}

    def _of_counts(self, x: Mapping[str, Tensor], z: Tensor) -> distributions.Distribution:
        """The distribution of the counts of S N rows."""
        source = cast(_Source, self.module)
        size, s = int(source.n_latent), len(z)
        rows = {name: value.expand(s, *value.shape).flatten(0, 1) for name, value in x.items()}
        flat = z.flatten(0, 1)
        latent = flat[:, :size]
        if source.latent_distribution == "ln":
            latent = cast(Any, source.z_encoder).z_transformation(latent)
        library = rows[LIBRARY] if source.use_observed_lib_size else flat[:, size:]
        given = source._get_generative_input(_their_tensors(rows), {"z": latent, LIBRARY: library})
        return cast(distributions.Distribution, source.generative(**given)["px"])

    def _of_library(self, x: Mapping[str, Tensor]) -> distributions.Normal:
        """The prior of the logarithm of the library size (N, 1)."""
        mean, variance = cast(Any, self.module)._compute_local_library_params(x["batch"])
        return distributions.Normal(mean, variance.sqrt())


class _Encoder(nn.Module):
    """x -> (mean, log variance) of z, and of the logarithm of the library size where it is latent."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, x: Tensor, **covariates: Tensor) -> tuple[Tensor, Tensor]:
        source = cast(_Source, self.module)
        with forked(0):  # inference draws from q, too
            encoded = source.inference(**source._get_inference_input(_their_tensors({"x": x, **covariates})))
        parts = [encoded["qz"]] if encoded.get("ql") is None else [encoded["qz"], encoded["ql"]]
        mean, scale = (torch.cat([getattr(part, name) for part in parts], -1) for name in ("mean", "stddev"))
        return mean, 2 * scale.log()


def _module_of(model: object) -> object:
    """The module of a model of scvi-tools that is supported."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("scvi.") and kind.__name__ in MODELS:
            return cast(_Owner, model).module
        if kind.__module__.startswith("scvi.") and kind.__name__ in OTHERS:
            raise TypeError(f"{kind.__name__} of scvi-tools cannot be measured: {OTHERS[kind.__name__]}")
    raise TypeError(f"scvi takes a {' or '.join(MODELS)} of scvi-tools; got {type(model).__name__}")


def _data_of(model: object, indices: Sequence[int] | None) -> dict[str, Tensor]:
    """The rows that the model's own loader gives, with the counts under "x"."""
    owner = cast(_Owner, model)
    with forked(0):  # a loader draws a seed even if it does not shuffle
        batches = list(owner._make_data_loader(adata=owner.adata, indices=indices, batch_size=512))
    names = [name for name, value in batches[0].items() if isinstance(value, Tensor)]
    rows = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    x = {"x": rows.pop(COUNTS), **rows}
    return {**x, LIBRARY: x["x"].sum(1, keepdim=True).log()}


def _their_tensors(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our mapping of tensors under the names of scvi-tools."""
    return {COUNTS if name == "x" else name: value for name, value in x.items()}


def _warn_of_weight(model: object) -> None:
    """Say so if the training ended before the weight of the KL had risen to 1."""
    history: dict[str, Any] = getattr(model, "history", None) or {}
    weights = history.get("kl_weight")
    last = 1.0 if weights is None else float(weights.iloc[-1, 0])
    if last < 1:
        warnings.warn(
            f"the weight of the KL had risen to {last:.3g} when the training ended, so q was not trained on the ELBO: "
            f"pass kl_weight={last:.3g} to decompose to measure it against its own objective",
            stacklevel=3,
        )


def _own_elbo(source: _Source, x: Mapping[str, Tensor]) -> Tensor:
    """The negative loss (N,) of each cell, by the module's own inference, decoder and loss."""
    mode = source.training
    source.train(False)
    try:
        with torch.no_grad():
            tensors = _their_tensors(x)
            encoded = source.inference(**source._get_inference_input(tensors))
            decoded = source.generative(**source._get_generative_input(tensors, encoded))
            loss = source.loss(tensors, encoded, decoded)
    finally:
        source.train(mode)
    terms = [*loss.reconstruction_loss.values(), *loss.kl_local.values()]
    return -torch.stack(terms).sum(0)


def _load(folder: Path) -> tuple[Any, ...]:
    """The model that scvi-tools saved in a folder, with its AnnData. A file that asks for other code is refused."""
    if not (folder / "adata.h5ad").exists():
        raise ValueError(f"{folder} must hold adata.h5ad: save the model by model.save(folder, save_anndata=True)")
    asked = set(torch.serialization.get_unsafe_globals_in_checkpoint(folder / "model.pt"))
    if asked - HARMLESS:
        raise ValueError(f"{folder} must hold tables and tensors alone; model.pt asks for {sorted(asked - HARMLESS)}")
    name = importlib.import_module("scvi.model.base").BaseModelClass.load_registry(str(folder))["model_name"]
    owner = getattr(importlib.import_module("scvi.model"), name).load(str(folder))
    model, q, x = scvi(owner)
    sets = {"all": x}
    for part, index in (("train", owner.train_indices), ("validation", owner.validation_indices)):
        if index is not None and len(index):
            sets[part] = {key: value[torch.as_tensor(index)] for key, value in x.items()}
    return model, q, sets


SCVI_TOOLS = Adapter(load=_load)
