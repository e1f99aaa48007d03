"""Models and guides of Pyro (Bingham and others 2019) as (model, q).

Each datum has latents of its own under a `pyro.plate` over the data. All of its latent sites together are one vector:
with the transformation v = T(u) from the real numbers to a site's support,

    log p(u) = log p(v) + log |det dT/du|,    and likewise for the guide
"""

from __future__ import annotations  # signatures in help() then show types by their names

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, distributions

from ..core import Rows, forked, observed, seed_of
from ..measure import check_own_number
from ..models import evaluating
from ..posteriors import CallablePosterior
from .registry import Adapter

__all__ = ["PYRO", "pyro"]

ROWS_CHECKED, PARTICLES = 64, 16  # data and draws of each with which the ELBO is compared


def pyro(model: Callable[..., Any], guide: Callable[..., Any], x0: Rows) -> tuple[_PyroModel, CallablePosterior]:
    """The model and the posterior of a trained pair of Pyro.

    Args:
        model, guide: called with x (N, ...); or, if x0 is a mapping, with its "x" and the others as keywords. Both must
            have a `pyro.plate` over the data, whose size is that of x. They are left as they are.
        x0: some data (N, ...), on which the ELBO is compared with that of `Trace_ELBO`. N must differ from the sizes
            of other plates, so that the plate of the data can be told.
    Returns:
        The model; and q, whose family is known if the guide is Gaussian with parameters that only x determines.
    Raises:
        CheckError: the ELBO on x0 is not that of `Trace_ELBO`. It is a ValueError.
        TypeError: a site that is discrete, that all data share, or that only the guide has; the site is named.
        ValueError: no plate of the data, or one of a size that does not follow x.
    """
    with evaluating(model, guide), forked(0), torch.no_grad():
        program = _Program.read(model, guide, x0)
        traces = [program.trace(guide, x0) for _ in range(2)]
        program.check_guide(traces[0])
        gaussian = all(torch.equal(a, b) for a, b in zip(*map(program.normals, traces), strict=True))
        gaussian = gaussian and len(program.normals(traces[0])) > 0
    made = _PyroModel(program)
    answers: Callable[[Rows], Any] = _GaussianGuide(program) if gaussian else _Guide(program)
    q = CallablePosterior(answers)
    few = {key: value[:ROWS_CHECKED] for key, value in x0.items()} if isinstance(x0, Mapping) else x0[:ROWS_CHECKED]
    check_own_number(made, q, few, program.own_elbo, seed=0)
    return made, q


Node: TypeAlias = Mapping[str, Any]  # a site of a trace: what Pyro knows of it


class _Trace(Protocol):
    """What is used of a trace of Pyro."""

    nodes: Mapping[str, Node]

    def compute_log_prob(self) -> None: ...


class _Site(NamedTuple):
    """A latent site: where the data lie among its dimensions, and the shape of one datum's unconstrained value."""

    name: str
    dim: int
    shape: torch.Size

    def rows(self, value: Tensor) -> Tensor:
        """A tensor of the site as (R, d)."""
        return value.movedim(self.dim, 0).reshape(value.shape[self.dim], -1)


@dataclass(frozen=True, kw_only=True)
class _Program:
    """A model and a guide with what a trace of them has shown.

    Attributes:
        sites: the latent sites.
        observed: the names of the observed sites, with the place of the data among the dimensions of each.
        simulates: the observed site that is x itself; None if there is no such site.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    sites: tuple[_Site, ...]
    observed: Mapping[str, int]
    simulates: str | None

    @staticmethod
    def read(model: Callable[..., Any], guide: Callable[..., Any], x0: Rows) -> _Program:
        """Read the sites off a trace of the model. Those of a conditioned model would all seem observed."""
        n = len(observed(x0))
        nodes = _samples(_trace(model, x0))
        latent, seen = [], {}
        for name, site in nodes.items():
            dim = _plate_dim(name, site, n)
            if site["is_observed"]:
                seen[name] = dim
                continue
            if site["fn"].support.is_discrete:
                raise TypeError(
                    f"latents must be continuous; the site {name} is a {type(site['fn']).__name__}. Sum it out in the "
                    "model, by a mixture distribution for instance"
                )
            inner = distributions.biject_to(site["fn"].support).inv(site["value"])
            latent.append(_Site(name, dim, inner.movedim(dim, 0).shape[1:]))
        if not latent or not seen:
            missing = "latent" if not latent else "observed"
            raise ValueError(f"a model of Pyro must have latent and observed sites; got none that is {missing}")
        (only, *others) = seen
        same = nodes[only]["value"].shape == observed(x0).shape and torch.equal(nodes[only]["value"], observed(x0))
        simulates = only if same and not others else None
        return _Program(model=model, guide=guide, sites=tuple(latent), observed=seen, simulates=simulates)

    @property
    def size(self) -> int:
        """D, the number of unconstrained latents of a datum."""
        return sum(site.shape.numel() for site in self.sites)

    def check_guide(self, trace: _Trace) -> None:
        """Raise TypeError unless the guide has the sites of the model and no others."""
        ours, theirs = {site.name for site in self.sites}, set(_samples(trace))
        if ours != theirs:
            raise TypeError(
                f"the guide must have the latent sites of the model, {sorted(ours)}; got {sorted(theirs)}. Auxiliary "
                "sites are not supported"
            )

    def trace(self, function: Callable[..., Any], x: Rows, values: Mapping[str, Tensor] | None = None) -> _Trace:
        """A trace of the model or the guide on rows of x, with the latent sites at `values` if there are some."""
        n = len(observed(x))
        found = _trace(function if values is None else _poutine().condition(function, data=values), x)
        for name, site in _samples(found).items():
            _plate_dim(name, site, n)
        return found

    def values(self, u: Tensor, nodes: Mapping[str, Node]) -> tuple[dict[str, Tensor], Tensor]:
        """The values of the sites at unconstrained rows u (R, D), and log |det| (R,) of the transformation."""
        values, log_det = {}, u.new_zeros(len(u))
        for site, part in zip(self.sites, u.split([site.shape.numel() for site in self.sites], -1), strict=True):
            inner = part.reshape(len(u), *site.shape).movedim(0, site.dim)
            transform = distributions.biject_to(nodes[site.name]["fn"].support)
            values[site.name] = transform(inner)
            log_det = log_det + _row_sums(transform.log_abs_det_jacobian(inner, values[site.name]), site.dim)
        return values, log_det

    def unconstrained(self, nodes: Mapping[str, Node]) -> tuple[Tensor, Tensor]:
        """The rows u (R, D) of the values of a trace, and log |det| (R,) there."""
        parts, log_dets = [], []
        for site in self.sites:
            transform = distributions.biject_to(nodes[site.name]["fn"].support)
            value = nodes[site.name]["value"]
            inner = transform.inv(value)
            parts.append(site.rows(inner))
            log_dets.append(_row_sums(transform.log_abs_det_jacobian(inner, value), site.dim))
        return torch.cat(parts, -1), torch.stack(log_dets).sum(0)

    def log_density(self, nodes: Mapping[str, Node]) -> Tensor:
        """The log density (R,) in nats of a trace's latent sites, in their own coordinates."""
        return torch.stack([_log_prob(nodes[site.name], site.dim) for site in self.sites]).sum(0)

    def normals(self, trace: _Trace) -> tuple[Tensor, ...]:
        """The mean and scale (R, d) of each site of the guide in unconstrained coordinates, if all are normal."""
        found: list[Tensor] = []
        for site in self.sites:
            normal = _normal_of(trace.nodes[site.name]["fn"])
            if normal is None:
                return ()
            found += [site.rows(part) for part in (normal.loc, normal.scale)]
        return tuple(found)

    def own_elbo(self, x: Rows) -> float:
        """Pyro's own ELBO for each datum, in eval mode."""
        infer = importlib.import_module("pyro.infer")
        with evaluating(self.model, self.guide), torch.no_grad():
            positional, keywords = _arguments(x)
            loss = infer.Trace_ELBO(num_particles=PARTICLES).loss(self.model, self.guide, *positional, **keywords)
        return -float(loss) / len(observed(x))


class _PyroModel:
    """p(u) p(x|u) of a model of Pyro. All draws of all data are rows of one call."""

    def __init__(self, program: _Program) -> None:
        self.program = program
        self.latent_shape = (program.size,)
        if program.simulates is not None:
            self.sample_data = self._sample_data

    def __repr__(self) -> str:
        sites = ", ".join(site.name for site in self.program.sites)
        return f"Pyro model, {self.program.size} latents ({sites}), observed {', '.join(self.program.observed)}"

    def log_prior(self, z: Tensor, x: Rows) -> Tensor:
        """log p(u) in nats: (S, N, D) -> (S, N)."""
        nodes, log_det = self._at(z, x)
        return (self.program.log_density(nodes) + log_det).reshape(z.shape[:2])

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|u) in nats: x with N rows, z (S, N, D) -> (S, N)."""
        nodes, _ = self._at(z, x)
        terms = [_log_prob(nodes[name], dim) for name, dim in self.program.observed.items()]
        return torch.stack(terms).sum(0).reshape(z.shape[:2])

    def sample_prior(self, n: int, x: Rows, generator: torch.Generator) -> Tensor:
        """Draw n latents for each of the N rows of x: (n, N, D)."""
        with forked(_drawn_seed(generator), generator.device), torch.no_grad():
            u, _ = self.program.unconstrained(_samples(self.program.trace(self.program.model, _tiled(x, n))))
        return u.reshape(n, -1, self.program.size)

    def _sample_data(self, z: Tensor, x: Rows, generator: torch.Generator) -> Rows:
        """Simulate one datum for each z (N, D), with the covariates of x."""
        name = self.program.simulates
        assert name is not None
        with forked(_drawn_seed(generator), generator.device), torch.no_grad():
            nodes = _samples(self.program.trace(self.program.model, x))
            values, _ = self.program.values(z, nodes)
            free = _poutine().uncondition(self.program.model)
            sample: Tensor = self.program.trace(free, x, values).nodes[name]["value"]
        return {**x, "x": sample} if isinstance(x, Mapping) else sample

    def _at(self, z: Tensor, x: Rows) -> tuple[Mapping[str, Node], Tensor]:
        """The sites of the model at latents z (S, N, D), and log |det| (S N,) of their transformation."""
        rows = _tiled(x, len(z))
        with forked(0), torch.no_grad():  # supports may depend on x, and on nothing else
            nodes = _samples(self.program.trace(self.program.model, x))
        values, log_det = self.program.values(z.flatten(0, 1), nodes)
        return _samples(self.program.trace(self.program.model, rows, values)), log_det


class _GaussianGuide:
    """x -> the normal distribution of the unconstrained latents, of which only x determines the parameters."""

    def __init__(self, program: _Program) -> None:
        self.program = program

    def __call__(self, x: Rows) -> distributions.Distribution:
        with forked(0):
            parts = self.program.normals(self.program.trace(self.program.guide, x))
        normal = distributions.Normal(torch.cat(parts[::2], -1), torch.cat(parts[1::2], -1))
        return distributions.Independent(normal, 1)


class _Guide:
    """x -> what any other guide draws, with its log density."""

    def __init__(self, program: _Program) -> None:
        self.program = program

    def __call__(self, x: Rows) -> _GuideDistribution:
        return _GuideDistribution(self.program, x)


class _GuideDistribution:
    """The draws of a guide for N data. The first numbers of the noise seed the generator of its draws."""

    noise_size = 1
    has_density = True

    def __init__(self, program: _Program, x: Rows) -> None:
        self.program, self.x = program, x

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise (S, N, 1) to z (S, N, D), which has no gradient, and log q in nats (S, N)."""
        with forked(seed_of(noise), noise.device), torch.no_grad():
            nodes = _samples(self.program.trace(self.program.guide, _tiled(self.x, len(noise))))
            u, log_det = self.program.unconstrained(nodes)
            log_q = self.program.log_density(nodes) + log_det
        return u.reshape(*noise.shape[:2], -1), log_q.reshape(noise.shape[:2])

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        rows = _tiled(self.x, len(z))
        with forked(0), torch.no_grad():
            free = _samples(self.program.trace(self.program.guide, self.x))
        values, log_det = self.program.values(z.flatten(0, 1), free)
        nodes = _samples(self.program.trace(self.program.guide, rows, values))
        return (self.program.log_density(nodes) + log_det).reshape(z.shape[:2])


def _poutine() -> ModuleType:
    return importlib.import_module("pyro.poutine")


def _arguments(x: Rows) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """How a model is called with the data: x itself, and covariates as keywords."""
    return (observed(x),), {key: value for key, value in x.items() if key != "x"} if isinstance(x, Mapping) else {}


def _trace(function: Callable[..., Any], x: Rows) -> _Trace:
    """A trace of one call, with the log density of each site: NaN, and no error, where latents have diverged."""
    positional, keywords = _arguments(x)
    with importlib.import_module("pyro").validation_enabled(False):
        found = _poutine().trace(function).get_trace(*positional, **keywords)
        found.compute_log_prob()
    return found


def _samples(trace: _Trace) -> dict[str, Node]:
    """The sample sites of a trace by name, without those of plates that subsample."""
    subsamples = importlib.import_module("pyro.poutine.util").site_is_subsample
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not subsamples(site)}


def _plate_dim(name: str, site: Node, n: int) -> int:
    """The place of the n data among the dimensions of a site's value, counted from the left."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    for frame in frames:
        if frame.size == n:
            if site["fn"].batch_shape[frame.dim] != n:
                raise ValueError(f"the plate {frame.name} must not subsample its {n} data")
            return len(site["fn"].batch_shape) + int(frame.dim)
    if not frames:
        raise TypeError(
            f"every site must be inside a pyro.plate over the data; {name} is not. A site that all data share is "
            "global, and only latents of each datum can be measured: fix it at its posterior mean"
        )
    sizes = ", ".join(f"{frame.name} of size {frame.size}" for frame in frames)
    raise ValueError(
        f"a pyro.plate must have the size of x, here {n}; {name} has {sizes}. Write pyro.plate(name, len(x)), so that "
        "the model can be called with any number of rows"
    )


def _log_prob(site: Node, dim: int) -> Tensor:
    """The log density (R,) of a site's rows, without the scale of a plate and with the mask of a handler."""
    value: Tensor = site["unscaled_log_prob"]
    if site["mask"] is not None:
        value = torch.where(torch.as_tensor(site["mask"]), value, value.new_zeros(()))
    return _row_sums(value, dim)


def _row_sums(value: Tensor, dim: int) -> Tensor:
    """Sums over everything but dimension `dim`."""
    return value.movedim(dim, 0).flatten(1).sum(1) if value.ndim > 1 else value


def _normal_of(fn: object) -> distributions.Normal | None:
    """The normal distribution of a site's unconstrained values; None if they are not normal."""
    while isinstance(fn, distributions.Independent):
        fn = fn.base_dist
    if isinstance(fn, distributions.LogNormal):
        fn = fn.base_dist
    return fn if isinstance(fn, distributions.Normal) else None


def _tiled(x: Rows, s: int) -> Rows:
    """Rows of x for the rows of (S, N, D): sample-major."""
    if isinstance(x, Mapping):
        return {key: value.expand(s, *value.shape).flatten(0, 1) for key, value in x.items()}
    return x.expand(s, *x.shape).flatten(0, 1)


def _drawn_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def _load(folder: Path) -> tuple[Any, ...]:
    """Pyro saves parameters alone."""
    raise ValueError(
        f"a model of Pyro is a function, and {folder} can only hold its parameters: build the pair in a factory, and "
        "pass --model file.py:factory"
    )


PYRO = Adapter(load=_load)
