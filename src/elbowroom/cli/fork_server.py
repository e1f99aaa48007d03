"""What the fork server of `early_start` imports: all that workers need, and the settings of the server itself.

It is imported by name in that process alone.
"""

import atexit
import json
import os
import shutil

from ..scale import quick_imports
from .early_start import SAFE_PATH, SERVER, restore_environment

with quick_imports():
    from . import measuring

__all__ = ["measuring"]

if SERVER in os.environ:
    _found = json.loads(os.environ[SERVER])
    restore_environment({SERVER: None, SAFE_PATH: _found[SAFE_PATH]})
    atexit.register(shutil.rmtree, _found["folder"], ignore_errors=True)
