"""`python -m elbowroom` is the command `elbowroom`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
