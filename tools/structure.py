"""What a source tree is like, measured from its text: rooms, chains of imports, circles, functions, annotations.

    python -m tools.structure [SRC] [--families diagonal full flow auxiliary]

SRC is the folder of the package, `src/elbowroom` by default; a flat one, of files alone, is one room a file.
"""

import argparse
import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles

__all__ = [
    "bare_any", "circles", "function_lengths", "imports_of", "longest_chain", "module_graph", "room_graph", "spellings",
]  # fmt: skip

Graph = Mapping[str, set[str]]
ENTRIES = ("__init__", "__main__")  # at the top of the package: they are no room
FAMILIES = ("diagonal", "full", "flow", "auxiliary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", nargs="?", type=Path, default=Path("src/elbowroom"))
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    arguments = parser.parse_args()
    sources = {path: path.read_text() for path in sorted(arguments.src.rglob("*.py"))}
    rooms, modules = room_graph(arguments.src), module_graph(arguments.src)
    lengths = sorted(length for text in sources.values() for length in function_lengths(text).values())
    spelled = [place for path, text in sources.items() for place in _places(path, text, arguments.families)]
    print(f"files {len(sources)}, lines {sum(text.count(chr(10)) for text in sources.values()):,}")
    print(f"rooms {len(rooms)}; longest chain of imports between them: {' > '.join(longest_chain(rooms))}")
    chain = longest_chain(modules)
    print(f"longest chain of imports between modules: {len(chain)}: {' > '.join(chain)}")
    print(f"circles between modules: {len(circles(modules))} {circles(modules) or ''}")
    print(
        f"functions {len(lengths)}, their lines without docstrings: median {median(lengths):.0f}, "
        f"p90 {quantiles(lengths, n=10)[-1]:.0f}, longest {lengths[-1]}"
    )
    print(f"annotations that are a bare Any: {sum(bare_any(text) for text in sources.values())}")
    print(
        f"places where a family's name is a string: {len(spelled)}, in {len({p.split(':')[0] for p in spelled})} files"
    )
    for place in spelled:
        print(f"  {place}")


# ---- imports


def imports_of(text: str, package: str) -> Iterator[tuple[str, str]]:
    """(dotted name imported, innermost function it is imported in) of a module of `package`; relative names made whole.
    Imports inside functions and through import_module count; those for a type checker alone count too.
    """
    for node, function in _with_function(ast.parse(text)):
        for name in _imported(node, package.split(".")):
            yield name, function


def module_graph(src: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports. A name that a room's `__init__` re-exports is imported from
    the module that it comes from.
    """
    paths = {_module_name(path, src): path for path in sorted(src.rglob("*.py"))}
    imported: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = ".".join([src.name, *path.relative_to(src).parts[:-1]])
        imported[name] = {target for target, _ in imports_of(path.read_text(), package)}
    homes = {
        f"{src.name}.{room}.{target.split('.')[-1]}": target
        for room, path in paths.items()
        if path.name == "__init__.py"
        for target in imported[room]
    }
    graph: dict[str, set[str]] = {}
    for name, targets in imported.items():
        modules = {_existing(homes.get(target, target), src.name, paths) for target in targets}
        graph[name] = {module for module in modules if module is not None} - {name}
    return graph


def room_graph(src: Path) -> dict[str, set[str]]:
    """Room -> the rooms that it imports: a room is a folder of the package, or in a flat one a file."""
    graph: dict[str, set[str]] = {}
    for module, targets in module_graph(src).items():
        room = module.split(".")[0]
        if room not in ENTRIES:
            graph.setdefault(room, set()).update(target.split(".")[0] for target in targets)
    return {room: targets & graph.keys() - {room} for room, targets in graph.items()}


def longest_chain(graph: Graph) -> list[str]:
    """The longest path of imports, from the top down, each circle stepped through once."""
    found: dict[str, list[str]] = {}

    def chain(node: str, above: frozenset[str]) -> list[str]:
        if node not in found:
            below = [chain(target, above | {node}) for target in sorted(graph.get(node, ())) if target not in above]
            found[node] = [node, *max(below, key=len, default=[])]
        return found[node]

    return max((chain(node, frozenset({node})) for node in sorted(graph)), key=len, default=[])


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {frozenset({node} | {other for other in reach[node] if node in reach.get(other, ())}) for node in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


# ---- what is written


def function_lengths(text: str) -> dict[str, int]:
    """Function (with its first line's number, since names may repeat) -> its lines without docstring."""
    lengths = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            lengths[f"{node.name}:{node.lineno}"] = lines
    return lengths


def bare_any(text: str) -> int:
    """Annotations of arguments, results and variables that are `Any` and nothing else."""
    annotations: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            annotations.append(node.annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            annotations.append(node.returns)
    return sum(isinstance(annotation, ast.Name) and annotation.id == "Any" for annotation in annotations)


def spellings(text: str, words: tuple[str, ...] | list[str]) -> list[tuple[int, str]]:
    """(line, word) of each string in the code that is one of `words`; docstrings are prose."""
    constants = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return sorted((node.lineno, str(node.value)) for node in constants if node.value in words)


def _places(path: Path, text: str, words: tuple[str, ...]) -> list[str]:
    return [f"{path.parent.name}/{path.name}:{line} {word}" for line, word in spellings(text, words)]


def _with_function(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the innermost function around it, "" at the module's level."""
    for child in ast.iter_child_nodes(tree):
        yield child, function
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from _with_function(child, inside)


def _imported(node: ast.AST, package: list[str]) -> list[str]:
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


def _module_name(path: Path, src: Path) -> str:
    """`evidence.ais`; `evidence` for a room's `__init__`; `__init__` for that of the package."""
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _existing(name: str, package: str, modules: Mapping[str, Path]) -> str | None:
    """The module of the package that a dotted name is of, or is in; None for a foreign one."""
    parts = name.split(".")
    if parts[0] != package:
        return None
    for end in range(len(parts), 1, -1):
        if ".".join(parts[1:end]) in modules:
            return ".".join(parts[1:end])
    return "__init__"


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    queue = [start]
    while queue:
        for target in graph.get(queue.pop(), ()):
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return seen


if __name__ == "__main__":
    main()
