"""Settings from where they may stand: environment, file, endpoints of a running stack, defaults, in this order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from headrace.pipeline import secrets
from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import Section
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.settings_problems import describe
from headrace.pipeline.yaml_file import StrictLoader, read_yaml, yaml_problem

PREFIX = "HEADRACE_"

Tree = dict[str, Any]  # parsed YAML, until pydantic has seen it
Discovered = Mapping[str, Mapping[str, str]]


def load_settings(path: Path | None, environ: Mapping[str, str], discovered: Discovered | None = None) -> Settings:
    """The settings in force.

    Args:
        path: a ``pipeline.yaml``; None for none.
        environ: environment variables; those named ``HEADRACE_<SECTION>__<FIELD>``, and ``HEADRACE_NAME``, are
            settings and go before the file.
        discovered: endpoints of a running stack by section and field: better than defaults, less than the file.

    Raises:
        ConfigError: with one line for each problem: where, what, and what is allowed.
    """
    tree = {section: dict(fields) for section, fields in (discovered or {}).items()}
    merge(tree, read_yaml(path) if path else {})
    overrides, problems = from_environment(environ)
    for location, (_, value) in overrides.items():
        _set(tree, location, value)
    try:
        tree = secrets.resolved(tree, environ, path.parent if path else Path())
    except secrets.UnresolvedError as error:
        raise ConfigError(f"{path or 'settings'}: {error}") from None
    except RecursionError:
        pass  # told below
    else:
        secrets.keep(tree)
    try:
        settings = Settings.model_validate_json(_as_json(tree, path), strict=True)
    except ValidationError as error:
        variables = {location: variable for location, (variable, _) in overrides.items()}
        problems += describe(error, str(path) if path else "settings", variables)
    if problems:
        raise ConfigError("\n".join(problems))
    return _with_code_path(settings, path)


def _with_code_path(settings: Settings, path: Path | None) -> Settings:
    """User code stands beside the file that names it, wherever the process runs."""
    code = settings.user_code
    if not code.modules:
        return settings
    found = ((path.parent if path else Path()) / code.path).resolve()
    return settings.model_copy(update={"user_code": code.model_copy(update={"path": str(found)})})


def merge(tree: Tree, newer: Tree) -> None:
    """Lay newer settings over older ones, section by section, field by field."""
    for key, value in newer.items():
        older = tree.get(key)
        tree[key] = {**older, **value} if isinstance(older, dict) and isinstance(value, dict) else value


def environment_variables() -> dict[str, tuple[str, ...]]:
    """Every environment variable that is a setting, and where it belongs. Routes stand in the file alone."""
    variables: dict[str, tuple[str, ...]] = {f"{PREFIX}NAME": ("name",)}
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for name in field.annotation.model_fields:
                variables[f"{PREFIX}{section}__{name}".upper()] = (section, name)
    return variables


def from_environment(environ: Mapping[str, str]) -> tuple[dict[tuple[str, ...], tuple[str, Any]], list[str]]:
    """Settings that stand in the environment, as location → (variable, value), and what is wrong with them.

    A variable without ``__`` (``HEADRACE_HOME``) is not a setting, except for ``HEADRACE_NAME``.
    """
    known = environment_variables()
    overrides: dict[tuple[str, ...], tuple[str, Any]] = {}
    problems = []
    for variable in sorted(environ):
        location = known.get(variable)
        if location is None:
            if variable.startswith(PREFIX) and "__" in variable:
                problems.append(_unknown_variable(variable, known))
            continue
        try:
            overrides[location] = (variable, _parsed(environ[variable], location))
        except yaml.YAMLError as error:
            problems.append(f"{variable}: {yaml_problem(error)}")
    return overrides, problems


def _unknown_variable(variable: str, known: Mapping[str, object]) -> str:
    if variable.startswith(f"{PREFIX}ROUTES__"):
        return f"{variable}: unknown setting; routes stand in the file alone"
    closest = get_close_matches(variable.upper(), known, n=1, cutoff=0.75)
    hint = f"did you mean {closest[0]}?" if closest else "'headrace config reference' lists all"
    return f"{variable}: unknown setting; {hint}"


def _parsed(text: str, location: tuple[str, ...]) -> Any:
    """A variable's value: text stays as it is; anything else is YAML, and a list may be separated by commas."""
    annotation: Any = Settings
    for name in location:
        annotation = annotation.model_fields[name].annotation
    if annotation is str:
        return text
    value = yaml.load(text, StrictLoader)  # a SafeLoader underneath
    if get_origin(annotation) is tuple and isinstance(value, str):
        return [item.strip() for item in value.split(",")]
    return value


def _set(tree: Tree, location: tuple[str, ...], value: Any) -> None:
    if len(location) == 1:
        tree[location[0]] = value
        return
    section = tree.setdefault(location[0], {})
    if isinstance(section, dict):  # else the file has something else there, which validation will name
        section[location[1]] = value


def _as_json(tree: Tree, path: Path | None) -> str:
    """JSON, because pydantic is strict with it in the way that suits a file: lists and enums pass, "5" is no number.

    Raises:
        ConfigError: for what YAML can say and a setting cannot be.
    """
    try:
        return json.dumps(tree)
    except RecursionError:
        problem = "is nested too deeply"
    except TypeError:
        problem = "holds a value of a kind that no setting has (tagged as a date or binary, say)"
    except ValueError:
        problem = "has an alias that refers to itself"
    raise ConfigError(f"{path or 'settings'}: {problem}")
