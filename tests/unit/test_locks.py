"""The version locks agree with pyproject.toml, and carry hashes but no address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.+!-]+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})*)")
LOCKS = ["lock-py311.txt", "lock-py312.txt"]


def requirements(*extras: str) -> list[Requirement]:
    listed = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in listed]


def pins(file: str) -> dict[str, str]:
    found = {}
    for line in (REQUIREMENTS / file).read_text().splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        assert match, f"{file}: {line}"
        assert bool(match["hashes"]) == file.startswith("lock"), f"{file}: {line}"
        found[match["name"]] = match["version"]
    return found


@pytest.mark.parametrize("file", LOCKS)
def test_lock_pins_every_requirement_within_its_bounds(file: str) -> None:
    locked = pins(file)
    build = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    for requirement in [*requirements("triton", "embedded", "evaluate", "dev"), *build]:
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{file} lacks {requirement.name}: run make lock"
        assert requirement.specifier.contains(version), f"{file}: {requirement}, not {version}: run make lock"


def test_locks_of_both_pythons_hold_the_same_packages() -> None:
    first, second = map(pins, LOCKS)
    assert first.keys() == second.keys()


def test_lowest_versions_are_the_lower_bounds() -> None:
    bounds = {}
    for requirement in requirements("triton", "embedded", "evaluate"):
        [lowest] = [item.version for item in requirement.specifier if item.operator in (">=", "==")]
        bounds[canonicalize_name(requirement.name)] = lowest
    assert pins("lowest.txt") == bounds


def test_every_requirement_has_an_upper_bound() -> None:
    for requirement in requirements("triton", "embedded", "evaluate", "dev"):
        [bound] = [item for item in requirement.specifier if item.operator in ("<", "==")]
        assert bound.operator == "==" or Version(bound.version).release
