"""The program `elbowroom`: its commands, and how an error ends it."""

import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from cyclopts import App, CycloptsError, MissingArgumentError

from .. import __version__
from ..scale import quick_imports
from .early_start import HUGE_PAGES, prepare_workers
from .terminal import UserError, drop_stdout, fail, is_message, show_warning

__all__ = ["app", "main"]

app = App(
    name="elbowroom",
    help="Inference gaps of a trained VAE: which assumption about q(z|x) loses how many nats.",
    version=__version__,
    version_flags=["--version"],
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(help="Install completion for your shell, and a line in its start-up file.")
WITHOUT_VALUE = {"--ray": "local"}  # what an option means that is given without a value
HELP = {
    "demo": """Measure the VAE that comes with elbowroom, on 250 training and 250 held-out images.

    It was trained on Fashion-MNIST. The measurement takes about a minute, and prints both ladders, from the ELBO up to
    log p(x), and a verdict.""",
    "selftest": """Measure models whose every number is known, and print the truth beside the estimate.

    Takes about ten seconds. Exits with code 1 if a number is further off than chance explains.""",
    "check": """Check that a model can be measured, and say what to fix if it cannot.

    The checks are of shapes, finite values, gradients, evaluation mode, and independence of the batch.""",
    "gaps": """Measure where a VAE's ELBO loses nats against log p(x), and print the ladder and the verdict.""",
    "train": """Train a VAE and save it as a folder that `elbowroom gaps --model` measures.

    Run the same command again to resume a training that was interrupted.""",
    "repair": """Retrain the encoder of a trained model on its frozen decoder, and report how much comes back.

    The new encoder starts from the old one's weights if it has the same size and family.""",
    "data": """List the named data sets and where their files are, or download those that are given.

    Files are looked for in --data-dir, $ELBOWROOM_DATA, the user's cache and /usr/share/datasets. Downloads go to the
    cache, and are kept only if every SHA-256 is that of the official files.""",
    "paper": """Run the experiments of Cremer, Li and Duvenaud (2018), and say which of the paper's claims hold.

    Each writes a page with a table, a figure and the verdicts. An experiment that was stopped goes on.""",
    "report": """Print the tables and the verdict of saved runs again.""",
    "runs": """List the runs below a folder: what they measure, how far they are, since when, and who measures them.""",
}
for _name, _help in HELP.items():  # a command's module is imported when it is run: `--help` needs no torch
    app.command(f"elbowroom.cli.{_name}:{_name}_command", name=_name, help=inspect.cleandoc(_help))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> exit code: 0; 1 if a selftest fails; 2 for an error that the user can mend; 130 for Ctrl-C."""
    with _huge_pages():
        return _run(argv)


@contextmanager
def _huge_pages() -> Iterator[None]:
    """Let torch, here and in processes that are started, ask Linux for pages of 2 MiB, which saves a tenth of the time.

    Torch reads the variable when it first needs memory. One that is set already is left as it is.
    """
    if HUGE_PAGES in os.environ:
        yield
        return
    os.environ[HUGE_PAGES] = "1"
    try:
        yield
    finally:
        del os.environ[HUGE_PAGES]


def _run(argv: Sequence[str] | None) -> int:
    try:
        words = _with_values(sys.argv[1:] if argv is None else argv)
        is_program = argv is None  # not a call from Python, which the settings below would outlive
        with quick_imports() if is_program else nullcontext():
            if is_program:
                prepare_workers(words)
                warnings.showwarning = show_warning
            command, arguments, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        code = command(*arguments.args, **arguments.kwargs)
    except MissingArgumentError as error:
        name = error.argument.name if error.argument is not None else "an argument"
        return fail(UserError(f"{name} is required; see elbowroom {' '.join(error.command_chain or ())} --help"))
    except (CycloptsError, UserError) as error:
        return fail(error)
    except (ValueError, TypeError, FloatingPointError, FileNotFoundError) as error:
        if not is_message(error):
            raise
        return fail(error)
    except BrokenPipeError:  # whoever read standard output has gone, as in `elbowroom report ... | head`
        drop_stdout()
        return 0
    except KeyboardInterrupt as error:
        print(" ".join(["elbowroom: interrupted", *map(str, error.args)]), file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


def _with_values(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the value of an option that may be given without one."""
    filled: list[str] = []
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        filled.append(word)
        if word in WITHOUT_VALUE and following.startswith("--"):
            filled.append(WITHOUT_VALUE[word])
    return filled
