"""The plan of the house, held by reading the source: who imports whom, sizes, and what importing elbowroom
does.

Imports are read with ast, also inside functions, so that a lazy import cannot cross a layer unseen. Each rule
is a function from source text to findings, and is tested on text that breaks it.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src" / "elbowroom"

# From the top down. A module imports only from lines below its own.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["making", "listing"],
    ["sources", "demo"],
    ["terminal", "selftest"],
    ["experiments", "adapters", "cluster", "repair"],
    ["__init__"],
    ["report", "train"],
    ["checkpoints"],
    ["architecture"],
    ["verdict"],
    ["sandwich"],
    ["gaps"],
    ["twophase"],
    ["ladder"],
    ["table", "store"],
    ["evidence"],
    ["ais", "local", "checks"],
    ["bases", "proposals"],
    ["bounds", "hmc", "natural", "flows"],
    ["posteriors"],
    ["families", "compiled", "fetch"],
    ["model", "nets", "data", "banks"],
    ["likelihoods", "readers"],
    ["blocks"],
    ["estimate", "rng", "settings", "files"],
]
LEVEL = {name: len(LAYERS) - i for i, layer in enumerate(LAYERS) for name in layer}

# Narrower than their layer: all that these may import.
ONLY = {
    "hmc": {"estimate", "rng", "blocks"},  # a sampler knows a log density, never a model
    "report": {"verdict", "ladder", "store", "estimate"},  # renders what is there, cannot compute
    "verdict": {"ladder", "evidence", "local", "estimate"},
}
# Measurement does not know how a model was made: a foreign one is a first-class citizen.
MAKERS = {"train", "checkpoints", "architecture", "settings", "data", "fetch", "readers", "nets"}
MAY_MAKE = {
    *("cli", "__main__", "making", "listing", "sources", "demo", "experiments", "adapters", "cluster", "repair"),
    *("train", "checkpoints", "architecture", "fetch", "data"),
}
# (module, function) -> what it may import in spite of its layer: drawing is asked for on what is
# drawn; the table names the type of what it renders.
UPWARD = {("table", ""): {"ladder"}, ("ladder", "plot"): {"report"}, ("ladder", "_repr_html_"): {"report"}}

REQUIRED = {"torch", "numpy", "safetensors", "pyarrow", "cyclopts", "rich"}
UNSAFE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

MAX_FILE, MAX_FUNCTION = 400, 60
LONG = {"making.py:train_": "half of it is the list of options"}  # "module.py" or "module.py:function" -> why

# Section 3 of the design. What is here may be exported; what is not, may not.
MAIN_PATH = {
    *("DecoderModel", "FunctionModel", "LinearGaussian", "likelihoods"),
    *("Amortized", "Local", "DiagonalGaussian", "FullGaussian", "CouplingFlow", "AuxiliaryFlow"),
    *("check", "decompose", "Plan", "Gaps", "Estimate", "Outcome", "load_gaps", "compare", "report"),
    *("elbo", "iwae", "ais", "sandwich", "Sandwich", "fit_local", "Fit", "refine", "__version__"),
}

sources = sorted(SRC.rglob("*.py"))
each_source = pytest.mark.parametrize("path", sources, ids=lambda path: path.relative_to(SRC).as_posix())


def module_of(path: Path) -> str:
    """The name in LAYERS: `gaps` for gaps.py, `report` for every file of report/."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def nodes_with_function(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the innermost function around it, "" at the module's level."""
    for child in ast.iter_child_nodes(tree):
        yield child, function
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from nodes_with_function(child, inside)


def imported(node: ast.AST, package: list[str]) -> list[str]:
    """The dotted names that an import statement, or an import_module call on a constant, brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) + 1 - node.level] if node.level else []
        start = [*base, *([node.module] if node.module else [])]
        return [".".join([*start, alias.name]) for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            relative = node.args[0].value.startswith(".")
            return [".".join(package) + node.args[0].value if relative else node.args[0].value]
    return []


def edges(source: str, package: str = "elbowroom") -> list[tuple[str, str]]:
    """(module of elbowroom imported, function it is imported in); the package itself counts as __init__."""
    found = []
    for node, function in nodes_with_function(ast.parse(source)):
        for name in imported(node, package.split(".")):
            parts = name.split(".")
            if parts[0] == "elbowroom":
                found.append((parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__", function))
    return found


def broken_edges(module: str, source: str, package: str = "elbowroom") -> list[str]:
    """The imports of `module` that the layers forbid."""
    broken = []
    for target, function in edges(source, package):
        allowed = LEVEL[target] < LEVEL[module] and target in ONLY.get(module, LEVEL)
        allowed = allowed and (target not in MAKERS or module in MAY_MAKE)
        if target != module and not allowed and target not in UPWARD.get((module, function), ()):
            broken.append(f"{module} imports {target}" + (f" in {function}" if function else ""))
    return broken


def foreign(source: str) -> list[tuple[str, bool]]:
    """(top-level package that is neither ours nor the standard library's, whether a function imports it)."""
    tree = ast.parse(source)
    only_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    return [
        (name.split(".")[0], bool(function))
        for node, function in nodes_with_function(tree)
        if node not in only_types and not (isinstance(node, ast.ImportFrom) and node.level)
        for name in imported(node, [])
        if name.split(".")[0] not in {*sys.stdlib_module_names, "elbowroom", ""}
    ]


def unsafe(source: str) -> list[str]:
    """Imports of modules that run code from files, and calls that ask for it."""
    found = []
    for node, _ in nodes_with_function(ast.parse(source)):
        found += [name for name in imported(node, []) if name.split(".")[0] in UNSAFE]
        if isinstance(node, ast.Call):
            settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and settings.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if settings.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
    return found


def long_functions(source: str) -> dict[str, int]:
    """Functions past the limit, with their lines, docstring not counted."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if lines > MAX_FUNCTION:
                found[node.name] = lines
    return found


def repeat_and_view(source: str) -> list[str]:
    """Functions that call both .repeat and .view: samples belong on a leading axis that broadcasts."""
    calls: dict[str, set[str]] = {}
    for node, function in nodes_with_function(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            calls.setdefault(function, set()).add(node.func.attr)
    copies = {"repeat", "repeat_interleave"}
    return [name for name, called in calls.items() if "view" in called and called & copies]


@each_source
def test_every_module_has_a_layer(path: Path) -> None:
    assert module_of(path) in LEVEL, f"{path.name}: put it in a layer (LAYERS in {Path(__file__).name})"


@each_source
def test_imports_go_down(path: Path) -> None:
    package = ".".join(["elbowroom", *path.relative_to(SRC).parts[:-1]])
    broken = broken_edges(module_of(path), path.read_text(), package)
    assert not broken, "; ".join(broken)


@each_source
def test_only_required_packages_outside_functions(path: Path) -> None:
    """Extras are imported where they are used; what is needed at import is in pyproject's dependencies."""
    eager = {name for name, lazy in foreign(path.read_text()) if not lazy}
    assert eager <= REQUIRED, f"{eager - REQUIRED} must be imported inside the function that needs it"


@each_source
def test_nothing_unpickles(path: Path) -> None:
    assert not unsafe(path.read_text())


@each_source
def test_never_repeat_and_view(path: Path) -> None:
    assert not repeat_and_view(path.read_text())


@each_source
def test_sizes(path: Path) -> None:
    name, source = path.relative_to(SRC).as_posix(), path.read_text()
    n_lines = len(source.splitlines())
    assert n_lines <= MAX_FILE or name in LONG, f"{name}: {n_lines} lines, more than {MAX_FILE}; split it"
    long = {f"{name}:{function}": lines for function, lines in long_functions(source).items()}
    assert set(long) <= set(LONG), f"more than {MAX_FUNCTION} lines: {long}; shorten, or say why in LONG"


def test_reasons_are_still_needed() -> None:
    long = set()
    for path in sources:
        name, source = path.relative_to(SRC).as_posix(), path.read_text()
        long |= {f"{name}:{function}" for function in long_functions(source)}
        long |= {name} if len(source.splitlines()) > MAX_FILE else set()
    assert set(LONG) <= long


IMPORT_REPORT = """
import json, random, sys, warnings
import numpy, torch
sockets, forbidden = [], json.loads(sys.argv[1])
def state():
    return [
        str(torch.get_default_dtype()), str(torch.get_default_device()), torch.get_num_threads(),
        torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(), torch.distributions.Distribution._validate_args,
        torch.get_rng_state().tolist(), str(random.getstate()), str(numpy.random.get_state()),
        str(numpy.geterr()), len(warnings.filters),
    ]
before = state()
sys.addaudithook(lambda event, _: sockets.append(event) if event.startswith("socket.") else None)
import elbowroom
exported = {name for name, value in vars(elbowroom).items() if not name.startswith("_")}
modules = {name for name in exported if f"elbowroom.{name}" in sys.modules}
print(json.dumps({
    "sockets": sockets,
    "loaded": [name for name in forbidden if name in sys.modules],
    "changed": [i for i, (old, new) in enumerate(zip(before, state())) if old != new],
    "all": list(getattr(elbowroom, "__all__", [])),
    "missing": [name for name in getattr(elbowroom, "__all__", []) if not hasattr(elbowroom, name)],
    "names": sorted(exported - modules),
}))
"""
LAZY = ["pyarrow", "matplotlib", "bokeh", "ray", "zuko", "pandas", "scipy", "cyclopts", "jaxtyping", "pooch"]


@pytest.fixture(scope="module")
def fresh_import() -> dict[str, list]:
    """What a new process sees when it imports elbowroom (torch and numpy first: what they do is theirs)."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_REPORT, json.dumps(LAZY)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_opens_no_socket(fresh_import: dict[str, list]) -> None:
    assert not fresh_import["sockets"]


def test_importing_loads_nothing_heavy(fresh_import: dict[str, list]) -> None:
    assert not fresh_import["loaded"]


def test_importing_changes_no_global_state(fresh_import: dict[str, list]) -> None:
    assert not fresh_import["changed"], "positions in the list of IMPORT_REPORT's state()"


def test_the_package_exports_the_main_path_only(fresh_import: dict[str, list]) -> None:
    assert not set(fresh_import["all"]) - MAIN_PATH
    assert not set(fresh_import["names"]) - MAIN_PATH
    assert not fresh_import["missing"]


def test_layers_name_each_module_once() -> None:
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))
    narrowed = {*ONLY, *MAKERS, *MAY_MAKE, *set().union(*ONLY.values()), *(module for module, _ in UPWARD)}
    assert narrowed <= set(names)


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("gaps", "from .local import fit_local\nfrom . import ais, bounds\nimport elbowroom.model", []),
        ("bounds", "from .gaps import Gaps", ["bounds imports gaps"]),
        ("ais", "from . import local", ["ais imports local"]),
        ("local", "import elbowroom.ais as a", ["local imports ais"]),
        ("model", "def f():\n    from elbowroom.bounds import elbo", ["model imports bounds in f"]),
        ("model", "def f():\n    importlib.import_module('.gaps', __package__)", ["model imports gaps in f"]),
        ("gaps", "from .data import mnist", ["gaps imports data"]),
        ("train", "from .data import mnist", []),
        ("hmc", "from .model import DecoderModel", ["hmc imports model"]),
        ("report", "from ..bounds import elbo", ["report imports bounds"]),
        ("report", "from . import figures\nfrom .figures import ladder\nfrom ..ladder import Gaps", []),
        ("blocks", "from .rng import seeded", []),
        ("blocks", "from .likelihoods import gaussian", ["blocks imports likelihoods"]),
        ("ladder", "class Gaps:\n    def plot(self):\n        from . import report", []),
        ("ladder", "from . import report", ["ladder imports report"]),
        ("ladder", "def save():\n    from . import report", ["ladder imports report in save"]),
        ("gaps", "from elbowroom import Estimate", ["gaps imports __init__"]),
        ("cli", "import elbowroom as er", []),
    ],
)
def test_the_rule_for_imports(module: str, source: str, broken: list[str]) -> None:
    package = "elbowroom.report" if module == "report" else "elbowroom"
    assert broken_edges(module, source, package) == broken


def test_the_other_rules() -> None:
    typing = "if TYPE_CHECKING:\n    import jaxtyping\n"
    lines = "import os, scipy.stats\ndef f():\n    import ray\n"
    assert foreign(typing + lines) == [("scipy", False), ("ray", True)]
    assert unsafe("import pickle") == ["pickle"]
    assert unsafe("from joblib import load") == ["joblib.load"]
    assert unsafe("torch.load(f)") == ["torch.load without weights_only=True"]
    assert unsafe("np.load(f, allow_pickle=True)") == ["allow_pickle"]
    assert not unsafe("torch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)")
    assert repeat_and_view("def f(x):\n    return x.repeat(3, 1).view(-1)") == ["f"]
    assert not repeat_and_view("def f(x):\n    return x.repeat(3, 1)\ndef g(x):\n    return x.view(-1)")
    body = "    x = 1\n"
    assert not long_functions("def f():\n    '''one\n    two'''\n" + 59 * body)
    assert long_functions("def f():\n    '''one\n    two'''\n" + 60 * body) == {"f": 61}
