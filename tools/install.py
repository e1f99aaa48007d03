"""Install elbowroom, editable and with the tested versions, into the environment of this file's Python.

    python tools/install.py        what it needs to run
    python tools/install.py dev    also what its tests, linters and benchmarks need

A torch that is already there and new enough is never replaced: it may be a build for an accelerator, or the
one that a user's models were trained with. It is pinned to the version found, and the pins of what it
requires are left out (an older torch asks for an exact older sympy, and pip would solve that conflict by
replacing torch).
"""

import importlib
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 6)


WHAT = {"": "what elbowroom needs to run (torch among it, about 200 MB)", "dev": "tests, linters and benchmarks"}


def main(extra: str = "") -> None:
    start = time.monotonic()
    print(f"Installing {WHAT[extra]} ...", flush=True)
    before = torch_version()
    keep = before is not None and is_new_enough(before)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if keep:
        lines = [f"torch=={before}", *without(lines, {"torch", *torch_requirements()})]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(lines) + "\n")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        code = subprocess.call([*pip, "-c", str(constraints), "-e", f"{ROOT}[{extra}]" if extra else str(ROOT)])
    if code:
        sys.exit(code)
    if keep and torch_version() != before:
        sys.exit(f"torch {before} was here and is now {torch_version()}: a fault of tools/install.py")
    print(f"Installed in {time.monotonic() - start:.0f} s.", flush=True)


def torch_version() -> str | None:
    """The version of torch in this environment, read without importing it; None where there is none."""
    importlib.invalidate_caches()
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def torch_requirements() -> set[str]:
    """The normalized names of what the installed torch requires."""
    return {name_of(line) for line in metadata.requires("torch") or []}


def is_new_enough(version: str) -> bool:
    major, minor = re.findall(r"\d+", version)[:2]
    return (int(major), int(minor)) >= OLDEST_TORCH


def without(lines: list[str], names: set[str]) -> list[str]:
    """The lines of a constraints file that are about none of `names`."""
    return [line for line in lines if name_of(line) not in names]


def name_of(line: str) -> str:
    """The normalized name of a requirement: `MarkupSafe>=2` is `markupsafe`; a comment has the empty name."""
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""


if __name__ == "__main__":
    main(*sys.argv[1:2])
