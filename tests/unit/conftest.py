"""For the unit tests, before the first of them imports numpy."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"
"""There is a process a core: more threads would wait for each other, on matrices that are small."""
