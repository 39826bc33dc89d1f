"""Renders a ready-to-serve model repository: ``python setup_models.py --repository DEST --placement cpu``.

To be run as a script by the interpreter of Triton's python backend (see requirements.txt), which has no headrace:
that is why the package is put on the path by hand.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    runpy.run_module("triton_models.repository", run_name="__main__")
