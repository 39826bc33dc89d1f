"""Finds and loads the user's modules."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from types import ModuleType
from typing import Any

from headrace.pipeline.config_output import UserCodeSettings
from headrace.pipeline.errors import ConfigError, FatalError


def load_modules(settings: UserCodeSettings, app: Any) -> None:
    """Import each module and call its ``setup(app)``.

    Raises:
        ConfigError: a module is not there, has no ``setup``, or fails.
    """
    if settings.modules and settings.path and settings.path not in sys.path:
        sys.path.insert(0, settings.path)
    for name in settings.modules:
        module = _imported(name, settings.path)
        setup = getattr(module, "setup", None)
        if not callable(setup):
            where = getattr(module, "__file__", None) or "built in"
            raise ConfigError(f"user_code.modules: {name} ({where}) has no function setup(app)")
        if inspect.iscoroutinefunction(setup):
            raise ConfigError(
                f"user_code.modules: setup of {name} is a coroutine function: it is called before anything runs"
            )
        try:
            setup(app)
        except FatalError:
            raise
        except Exception as error:
            raise ConfigError(f"user_code.modules: setup of {name} failed: {_described(error)}") from error


def check_modules(settings: UserCodeSettings) -> None:
    """Whether each module is there. Does not run it, only the packages that it is in.

    Raises:
        ConfigError: it is not.
    """
    if settings.modules and settings.path and settings.path not in sys.path:
        sys.path.insert(0, settings.path)
    for name in settings.modules:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        except Exception as error:
            raise ConfigError(f"user_code.modules: {name} cannot be looked for: {_described(error)}") from error
        if found is None:
            raise _missing(name, settings.path)


def _missing(name: str, path: str) -> ConfigError:
    where = f"in {path} or " if path else ""
    return ConfigError(
        f"user_code.modules: there is no module {name} {where}among the installed ones: check its name, "
        "or set user_code.path"
    )


def _imported(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"user_code.modules: {name} cannot be imported: {_described(error)}") from error
        raise _missing(name, path) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"user_code.modules: {name} cannot be imported: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """The error, and where in the user's code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
