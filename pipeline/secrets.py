"""Secrets in settings: where they come from, and that they are told to nobody.

A text of the settings may say ``${env:NAME}`` or ``${file:PATH}``, and gets what is there, so that a pipeline.yaml
holds none. What is secret as a client's property by its name, as a header, or as the password in a URL, is masked in
logs and messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MASK = "********"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "jaas", ".pem", "user.info")
"""In the name of a client's property."""
CLIENTS = (("kafka", "client"), ("registry", "client"))
"""Where properties of clients stand."""
HEADERS = ("triton", "headers")
"""Where each value is one."""
SHORTEST = 4
"""A shorter one is part of many a word, and guessed soon."""
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")
_PASSWORD = re.compile(r"//[^/@,:\s]*:([^@\s]+)@")
_USER_INFO = re.compile(r"//[^@\s]+@")
_known: set[str] = set()


class UnresolvedError(ValueError):
    """A reference leads nowhere."""


def resolved(value: Any, environ: Mapping[str, str], folder: Path) -> Any:
    """Settings, or one, with what the references in their texts refer to.

    Args:
        value: parsed YAML.
        environ: environment variables.
        folder: that relative paths begin in.

    Raises:
        UnresolvedError: there is no such variable, or the file cannot be read.
    """
    if isinstance(value, Mapping):
        return {name: resolved(each, environ, folder) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, environ, folder) for each in value]
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda match: _referred(match[1], match[2], environ, folder), value)


def _referred(kind: str, name: str, environ: Mapping[str, str], folder: Path) -> str:
    if kind == "env":
        if name not in environ:
            raise UnresolvedError(f"environment variable {name} is not set")
        return environ[name]
    path = folder / name
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")  # the line end that an editor leaves
    except OSError as error:
        raise UnresolvedError(f"file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnresolvedError(f"file {path} is no UTF-8 text") from None


def is_secret(name: str) -> bool:
    """Whether a client's property is secret by its name."""
    name = name.lower()
    return any(word in name for word in SECRET_WORDS) and not name.endswith(".location")


def hidden(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what is secret in them, to be shown."""
    return {
        section: {name: _hidden((section, name), value) for name, value in fields.items()}
        if isinstance(fields, Mapping)
        else fields
        for section, fields in tree.items()
    }


def _hidden(place: tuple[str, str], value: Any) -> Any:
    if isinstance(value, str):
        return _USER_INFO.sub(f"//{MASK}@", value)
    if isinstance(value, Mapping) and place in (*CLIENTS, HEADERS):
        return {name: MASK if place == HEADERS or is_secret(name) else each for name, each in value.items()}
    return value


def keep(tree: Mapping[str, Any]) -> None:
    """Mask from now on what these settings hold that is secret."""
    found: list[str] = []
    for place in CLIENTS:
        found += [str(value) for name, value in _mapping(tree, place).items() if is_secret(str(name))]
    for value in _mapping(tree, HEADERS).values():
        found += [str(value), *str(value).split()[1:]]  # of "Bearer abc" the abc alone, too
    for fields in tree.values():
        for value in fields.values() if isinstance(fields, Mapping) else ():
            for password in _PASSWORD.findall(value) if isinstance(value, str) else ():
                found += [password, unquote(password)]
    for each in [*found, *(line for value in found for line in value.splitlines())]:
        if len(each) >= SHORTEST:
            _known.update((each, json.dumps(each)[1:-1]))  # as logs in JSON have it


def _mapping(tree: Mapping[str, Any], place: tuple[str, str]) -> Mapping[str, Any]:
    section = tree.get(place[0])
    found = section.get(place[1]) if isinstance(section, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def masked(text: str) -> str:
    """A message without the secrets that are kept."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
