"""The plan of the house, held by reading the source: who imports whom, sizes, names, and what importing elbowroom does.

Imports are read with ast, also inside functions, so that a lazy import cannot cross a room unseen. Each rule is a
function from source text to findings, and is tested on text that breaks it.
"""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from elbowroom.posteriors import FAMILIES
from tools.structure import (
    bare_any,
    circles,
    function_lengths,
    imports_of,
    longest_chain,
    module_graph,
    room_graph,
    spellings,
)

SRC = Path(__file__).resolve().parent.parent / "src" / "elbowroom"

# From the top down. A room imports only from rooms below it; rooms of one line do not import each other.
ROOMS = [
    {"cli"},
    {"experiments", "adapters", "scale"},
    {"training", "datasets"},
    {"measure"},
    {"fits"},
    {"evidence"},
    {"posteriors"},
    {"models"},
    {"results"},
    {"core"},
]
LEVEL = {room: len(ROOMS) - i for i, line in enumerate(ROOMS) for room in line}

# Narrower than their room: all modules of the package that these may import.
ONLY: dict[str, set[str]] = {
    "evidence.hmc": set(),  # a sampler knows a log density, never a model
    "core.rng": set(),
    "core.densities": set(),
}

REQUIRED = {"torch", "numpy", "safetensors", "pyarrow", "cyclopts", "rich", "lazy_loader"}
UNSAFE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

MAX_FILE, MAX_FUNCTION, MAX_BARE_ANY, MAX_POSITIONAL = 400, 60, 25, 4
SPELL_FAMILIES = {"posteriors", "cli"}  # where families are defined, and the help of the command line
PLAN_NAMES = "measure/plan.py"  # a plan is called "flow" too
SCALE_NAMES = "experiments/experiment.py"  # and a scale "full"

# Section 3 of the design. What is here may be exported; what is not, may not.
MAIN_PATH = {
    *("DecoderModel", "FunctionModel", "LinearGaussian", "likelihoods"),
    *("Amortized", "Local", "DiagonalGaussian", "FullGaussian", "CouplingFlow", "AuxiliaryFlow"),
    *("check", "decompose", "Plan", "Gaps", "Estimate", "Outcome", "load_gaps", "compare", "report"),
    *("elbo", "iwae", "ais", "sandwich", "Sandwich", "fit_local", "Fit", "refine", "__version__"),
    # what those return, take and raise
    *("Budget", "EvidencePlan", "AnnealingSchedule", "Flag", "FitReport", "Comparison", "Verdict", "Finding", "judge"),
    *("LatentModel", "Posterior", "Distribution", "Family", "CheckError", "RunError"),
    # making models and data
    *("training", "datasets", "posteriors", "Settings", "repair", "estimate_cost", "Forecast"),
    *("adapters", "plain", "pythae", "pyro", "scvi"),
}

sources = sorted(SRC.rglob("*.py"))
each_source = pytest.mark.parametrize("path", sources, ids=lambda path: path.relative_to(SRC).as_posix())


def place_of(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def broken_imports(room: str, text: str) -> list[str]:
    """The imports of a module in `room` that the plan forbids: of a room that is not below, or past a room's door,
    which is its `__init__`.
    """
    broken = []
    for name, function in imports_of(text, f"elbowroom.{room}"):
        parts = name.split(".")
        if parts[0] != "elbowroom" or (len(parts) > 1 and parts[1] == room) or name == "elbowroom.__version__":
            continue
        where = f" in {function}" if function else ""
        target = parts[1] if len(parts) > 1 else ""
        if target not in LEVEL:
            broken.append(f"{room} imports the whole package{where}")
        elif LEVEL[target] >= LEVEL[room]:
            broken.append(f"{room} imports {target}{where}")
        elif len(parts) > 3:
            broken.append(f"{room} imports {'.'.join(parts[1:3])} past its door{where}")
    return broken


def foreign(text: str) -> list[tuple[str, bool]]:
    """(top-level package that is neither ours nor the standard library's, whether a function imports it)."""
    ours = {*sys.stdlib_module_names, "elbowroom", ""}
    run = run_time_only(text)
    found = ((name.split(".")[0], bool(function)) for name, function in imports_of(run, "elbowroom.room"))
    return [(package, lazy) for package, lazy in found if package not in ours]


def run_time_only(text: str) -> str:
    """A module without its blocks `if TYPE_CHECKING`, which no interpreter runs."""
    tree = ast.parse(text)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.unparse(tree)


def unsafe(text: str) -> list[str]:
    """Imports of modules that run code from files, and calls that ask for it."""
    found = [name for name, _ in imports_of(text, "elbowroom.room") if name.split(".")[0] in UNSAFE]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and settings.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if settings.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
    return found


def long_functions(text: str) -> dict[str, int]:
    """Functions past the limit, with their lines, docstring not counted."""
    return {name: lines for name, lines in function_lengths(text).items() if lines > MAX_FUNCTION}


def repeat_and_view(text: str) -> list[str]:
    """Functions that call both .repeat and .view: samples belong on a leading axis that broadcasts."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            calls = [child.func for child in ast.walk(node) if isinstance(child, ast.Call)]
            called = {call.attr for call in calls if isinstance(call, ast.Attribute)}
            if "view" in called and called & {"repeat", "repeat_interleave"}:
                found.append(node.name)
    return found


def positional_records(text: str) -> list[str]:
    """Dataclasses of more fields than can be told apart by their order, that can be built by it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if not any("dataclass" in decorator for decorator in decorators) or any(
            "kw_only=True" in d for d in decorators
        ):
            continue
        kinds = [ast.unparse(child.annotation) for child in node.body if isinstance(child, ast.AnnAssign)]
        kinds = [kind for kind in kinds if not kind.startswith("ClassVar")]
        n_positional = kinds.index("KW_ONLY") if "KW_ONLY" in kinds else len(kinds)
        if n_positional > MAX_POSITIONAL:
            found.append(node.name)
    return found


def public_names(text: str) -> list[str]:
    """Functions, classes and constants of a module, those with a leading underscore left out; an overload is not
    another function.
    """
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found += [] if any(ast.unparse(d) == "overload" for d in node.decorator_list) else [node.name]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


# ---- rooms


def test_the_rooms_are_those_of_the_plan() -> None:
    """Both ways: no room that is not listed, and none that is listed and not there."""
    rooms = {path.name for path in SRC.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(LEVEL)
    assert sum(map(len, ROOMS)) == len(LEVEL), "a room is listed twice"
    assert {path.name for path in SRC.glob("*.py")} == {"__init__.py", "__main__.py"}, "every file is in a room"


@each_source
def test_imports_go_down_and_through_the_door(path: Path) -> None:
    room = path.relative_to(SRC).parts[0]
    broken = broken_imports(room, path.read_text()) if room in LEVEL else []
    assert not broken, "; ".join(broken)


def test_no_chain_of_rooms_is_longer_than_the_house_is_high() -> None:
    graph = room_graph(SRC)
    assert graph.keys() == set(LEVEL)
    assert len(longest_chain(graph)) <= len(ROOMS)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Within a room, too, files import downwards."""
    assert not circles(module_graph(SRC))


def test_what_is_narrower_than_its_room() -> None:
    graph = module_graph(SRC)
    assert {name: graph[name] for name in ONLY} == ONLY


def test_the_tests_are_in_the_same_rooms() -> None:
    here = Path(__file__).resolve().parent
    assert {path.name for path in here.iterdir() if (path / "__init__.py").is_file()} == set(LEVEL)


# ---- what is written


def test_a_family_is_spelled_where_it_is_defined() -> None:
    words = [family.name for family in FAMILIES.values()]
    assert {"diagonal", "full", "flow"} <= set(words)
    places = {
        (place_of(path), word)
        for path in sources
        for _, word in spellings(path.read_text(), words)
        if path.relative_to(SRC).parts[0] not in SPELL_FAMILIES
    }
    assert places == {(PLAN_NAMES, "flow"), (SCALE_NAMES, "full")}


def test_annotations_say_what_they_take() -> None:
    counts = {place_of(path): bare_any(path.read_text()) for path in sources}
    assert sum(counts.values()) <= MAX_BARE_ANY, {place: n for place, n in counts.items() if n}


def test_no_two_things_have_one_name() -> None:
    names = Counter(name for path in sources for name in public_names(path.read_text()))
    assert not {name: n for name, n in names.items() if n > 1}


@each_source
def test_records_of_many_fields_are_built_by_keyword(path: Path) -> None:
    assert not positional_records(path.read_text())


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
    text = path.read_text()
    n_lines = len(text.splitlines())
    assert n_lines <= MAX_FILE, f"{place_of(path)}: {n_lines} lines, more than {MAX_FILE}; split it"
    assert not long_functions(text), f"more than {MAX_FUNCTION} lines; shorten it"


# ---- what importing does


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
missing = [name for name in dir(elbowroom) if not hasattr(elbowroom, name)]  # each is loaded when it is asked for
print(json.dumps({
    "sockets": sockets,
    "loaded": [name for name in forbidden if name in sys.modules],
    "changed": [i for i, (old, new) in enumerate(zip(before, state())) if old != new],
    "all": list(elbowroom._names),
    "missing": missing,
    "shown": dir(elbowroom),
}))
"""
LAZY = ["pyarrow", "matplotlib", "bokeh", "ray", "zuko", "pandas", "scipy", "cyclopts", "pooch"]


@pytest.fixture(scope="module")
def fresh_import() -> dict[str, list]:
    """What a new process sees when it imports elbowroom and every name of it (torch and numpy first: what they do is
    theirs).
    """
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
    assert not {name for name in fresh_import["shown"] if not name.startswith("_")} - MAIN_PATH
    assert not fresh_import["missing"]


RESULTS_ALONE = """
import json, sys
from elbowroom.results import judge, load_gaps
gaps = load_gaps(sys.argv[1])
print(gaps)
for finding in judge(gaps):
    print(finding)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("elbowroom.")}
print(json.dumps(sorted(rooms)))
"""


def test_a_saved_run_is_read_printed_and_judged_without_an_estimator(tmp_path: Path) -> None:
    import elbowroom as er

    from . import scenarios

    planted = scenarios.correlated(20)
    gaps = er.decompose(planted.model, planted.q, planted.x, plan="quick")
    gaps.save(tmp_path / "run")
    run = subprocess.run(
        [sys.executable, "-c", RESULTS_ALONE, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(gaps))
    assert json.loads(run.stdout.splitlines()[-1]) == ["core", "results"]


# ---- the rules themselves


@pytest.mark.parametrize(
    ("room", "source", "broken"),
    [
        ("measure", "from ..fits import fit_local\nfrom .plan import Plan\nimport elbowroom.models", []),
        ("evidence", "from ..measure import Plan", ["evidence imports measure"]),
        ("fits", "import elbowroom.measure.plan as p", ["fits imports measure"]),
        ("models", "def f():\n    from elbowroom.evidence import elbo", ["models imports evidence in f"]),
        ("models", "def f():\n    importlib.import_module('..fits', __package__)", []),  # two dots are not followed
        ("models", "def f():\n    importlib.import_module('elbowroom.fits')", ["models imports fits in f"]),
        ("training", "from ..datasets import mnist", ["training imports datasets"]),
        ("measure", "from ..training import fit", ["measure imports training"]),
        ("measure", "from ..evidence.ais import tune", ["measure imports evidence.ais past its door"]),
        ("measure", "from ..evidence import ais", []),
        ("results", "from ..evidence import elbo", ["results imports evidence"]),
        ("core", "from .rng import seeded", []),
        ("measure", "import elbowroom as er", ["measure imports the whole package"]),
        ("cli", "from .. import __version__", []),
    ],
)
def test_the_rule_for_imports(room: str, source: str, broken: list[str]) -> None:
    assert broken_imports(room, source) == broken


def test_the_rules_for_graphs() -> None:
    straight = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert longest_chain(straight) == ["a", "b", "c"]
    assert not circles(straight)
    assert circles(straight | {"c": {"b"}}) == [["b", "c"]]


def test_the_other_rules() -> None:
    assert foreign("import os, scipy.stats\ndef f():\n    import ray\n") == [("scipy", False), ("ray", True)]
    assert foreign("if TYPE_CHECKING:\n    import pandas\nelse:\n    pass\nimport ray\n") == [("ray", False)]
    assert unsafe("import pickle") == ["pickle"]
    assert unsafe("from joblib import load") == ["joblib.load"]
    assert unsafe("torch.load(f)") == ["torch.load without weights_only=True"]
    assert unsafe("np.load(f, allow_pickle=True)") == ["allow_pickle"]
    assert not unsafe("torch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)")
    assert repeat_and_view("def f(x):\n    return x.repeat(3, 1).view(-1)") == ["f"]
    assert not repeat_and_view("def f(x):\n    return x.repeat(3, 1)\ndef g(x):\n    return x.view(-1)")
    body = "    x = 1\n"
    assert not long_functions("def f():\n    '''one\n    two'''\n" + 59 * body)
    assert long_functions("def f():\n    '''one\n    two'''\n" + 60 * body) == {"f:1": 61}
    assert bare_any("def f(a: Any, b: list[Any]) -> Any:\n    c: Any = a") == 3
    assert spellings('"""of full"""\nx = "full"\ny = f"{x} full"', ["full"]) == [(2, "full")]
    five = "class A:\n" + "".join(f"    x{i}: int\n" for i in range(5))
    assert positional_records(f"@dataclass\n{five}") == ["A"]
    assert not positional_records(f"@dataclass(frozen=True, kw_only=True)\n{five}")
    assert not positional_records(f"@dataclass\n{five.replace('    x2', '    _: KW_ONLY' + chr(10) + '    x2')}")
    assert public_names("a = 1\n_b = 2\nclass C: ...\ndef d(): ...\ndef _e(): ...") == ["a", "C", "d"]
    assert public_names("@overload\ndef f(): ...\ndef f(): ...") == ["f"]
