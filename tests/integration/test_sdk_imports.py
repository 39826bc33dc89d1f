"""What ``import headrace`` costs and offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headrace

FACADE = Path(headrace.__file__)
SDK_NAMES = sorted(
    name for name in headrace.__all__ if getattr(getattr(headrace, name), "__module__", "").startswith("headrace.sdk.")
)
HEAVY = {"faust", "mode", "pydantic", "confluent_kafka", "numpy", "click", "asyncio"}


def loaded_after(program: str) -> set[str]:
    """The top-level modules that a program leaves loaded in a fresh interpreter."""
    command = [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import headrace") & HEAVY == set()


def test_sdk_never_loads_faust() -> None:
    assert {"InferenceClient", "EventProducer", "ResultConsumer", "event", "tensor"} <= set(SDK_NAMES)
    loaded = loaded_after(f"from headrace import {', '.join(SDK_NAMES)}")
    assert "confluent_kafka" in loaded
    assert loaded & {"faust", "mode", "tritonclient"} == set()


def test_building_an_event_loads_no_client() -> None:
    program = "import headrace; headrace.event('words', headrace.tensor([1.0]), key='k')"
    assert loaded_after(program) & {"confluent_kafka", "faust"} == set()


@pytest.mark.parametrize("name", headrace.__all__)
def test_name_is_found(name: str) -> None:
    assert getattr(headrace, name) is not None
    assert name in dir(headrace)


def test_type_checkers_see_what_is_found_at_run_time() -> None:
    """The names imported for them alone are those of ``__all__``."""
    (seen,) = [node for node in ast.parse(FACADE.read_text()).body if ast.unparse(node).startswith("if TYPE_CHECKING:")]
    imports = [node for node in ast.walk(seen) if isinstance(node, ast.ImportFrom)]
    imported = {(alias.name, str(node.module)) for node in imports for alias in node.names}
    assert {name for name, _ in imported} == set(headrace.__all__) - {"__version__"}
    for name, module in imported:
        assert getattr(headrace, name) is getattr(sys.modules[module], name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Producer'"):
        _ = headrace.Producer  # type: ignore[attr-defined]  # that there is none is the point
    assert not hasattr(headrace, "__wrapped__")


def test_star_import_offers_all() -> None:
    space: dict[str, object] = {}
    exec("from headrace import *", space)
    assert set(headrace.__all__) <= space.keys()
