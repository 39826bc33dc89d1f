"""Packages of optional models, which are apart from those of the interpreter that all models share."""

from __future__ import annotations

import os
import sys

VARIABLE = "HEADRACE_MODEL_PACKAGES"
"""Folders, separated by colons. Not PYTHONPATH: the interpreter that Triton's python backend starts ignores it."""


def add_packages() -> None:
    """Make them importable, after everything that is already. Without the variable they are installed as all others."""
    found = os.environ.get(VARIABLE, "").split(":")
    sys.path += [folder for folder in found if folder and folder not in sys.path]
