"""For the unit tests: the first lines stand before the first import of numpy."""

import gc
import os

import pytest

os.environ["OPENBLAS_NUM_THREADS"] = "1"
"""There is a process a core: more threads would wait for each other, on matrices that are small."""


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What other files have left is collected here, and what stays of it is not looked at again by any collection."""
    gc.collect()
    gc.freeze()
