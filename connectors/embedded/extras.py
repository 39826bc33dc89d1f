"""Optional models of the embedded stack: each a folder of packages and a model repository beside the bundled ones.

Both are apart from what every stack has, so that who asks for no extra downloads nothing for it, and a stack with one
and a stack without share the rest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.triton_env import (
    TritonInterpreter,
    build_once,
    clean_environment,
    models_folder,
    models_key,
    pip_install,
    run_reported,
)
from headrace.pipeline.errors import ConfigError

DOWNLOAD_MB = {"content_type": 16, "speech_to_text": 115}
"""Every extra, by the name of its model, and what its packages take to download."""
ALL = "all"


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional model, ready to serve.

    Attributes:
        packages: folder that the model imports from.
        repository: a model repository that holds it alone.
    """

    name: str
    packages: Path
    repository: Path


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The extras that are asked for, each once; ``all`` is every one.

    Raises:
        ConfigError: if there is none of a name.
    """
    wanted = set(names)
    if unknown := sorted(wanted - {*DOWNLOAD_MB, ALL}):
        raise ConfigError(f"there is no extra {', '.join(unknown)}: choose from {', '.join((*DOWNLOAD_MB, ALL))}")
    return tuple(name for name in DOWNLOAD_MB if ALL in wanted or name in wanted)


def requirements_file(name: str) -> Path:
    """The extra's pinned packages."""
    return models_folder() / f"requirements-{name}.txt"


def packages_folder(cache: Path, interpreter: TritonInterpreter, name: str) -> Path:
    """Where the extra's packages for this interpreter are, or would be."""
    digest = hashlib.sha256(interpreter.folder.name.encode() + requirements_file(name).read_bytes()).hexdigest()[:12]
    return cache / f"extra-{name}-{digest}"


def ensure_extra(cache: Path, interpreter: TritonInterpreter, name: str, placement: str, progress: Progress) -> Extra:
    """Install an extra's packages and set its model up, unless that is done.

    Raises:
        StackError: if they cannot be downloaded, or its model cannot be set up.
    """
    packages = packages_folder(cache, interpreter, name)
    repository = cache / f"models-{name}-{placement}-{models_key(interpreter, f'{placement} {name}')}"

    def install(report: Callable[[str], None]) -> None:
        hint = (
            f"the packages of the extra {name} could not be installed: it needs PyPI once; check network and proxy, "
            "start again, or start without it"
        )
        target = ("--target", str(packages))
        pip_install(interpreter.python, packages, requirements_file(name), report, hint, *target)
        shutil.rmtree(packages / "bin", ignore_errors=True)  # commands, which nobody runs

    def set_up(report: Callable[[str], None]) -> None:
        script = models_folder() / "setup_models.py"
        run_reported(
            [
                *(str(interpreter.python), str(script), "--repository", str(repository)),
                *("--placement", placement, "--extra", name),
            ],
            report,
            f"the extra {name} could not be set up",
            {**clean_environment(), "PYTHONPATH": str(packages)},
        )

    build_once(packages, cache, progress, f"Installing the extra {name} (downloads {DOWNLOAD_MB[name]} MB)", install)
    build_once(repository, cache, progress, f"Setting the extra {name} up", set_up)
    return Extra(name, packages, repository)
