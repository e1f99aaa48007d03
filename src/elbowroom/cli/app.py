"""The program `elbowroom`: its commands, and how an error ends it."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from .. import __version__
from .check import check_command
from .data import data_command
from .demo import demo_command
from .gaps import gaps_command
from .repair import repair_command
from .report import report_command
from .selftest import selftest_command
from .terminal import UserError, fail, is_message
from .train import train_command

__all__ = ["app", "main"]

app = App(
    name="elbowroom",
    help="Inference gaps of a trained VAE: which assumption about q(z|x) loses how many nats.",
    version=__version__,
    version_flags=["--version"],
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
app.command(demo_command, name="demo")
app.command(selftest_command, name="selftest")
app.command(check_command, name="check")
app.command(gaps_command, name="gaps")
app.command(train_command, name="train")
app.command(repair_command, name="repair")
app.command(data_command, name="data")
app.command(report_command, name="report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> exit code: 0, 1 where a selftest fails, 2 for an error that the user can mend."""
    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, UserError) as error:
        return fail(error)
    except (ValueError, TypeError, FloatingPointError, FileNotFoundError) as error:
        if not is_message(error):
            raise
        return fail(error)
    except BrokenPipeError:  # whoever read standard output has gone, as in `elbowroom report ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("elbowroom: interrupted", file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0
