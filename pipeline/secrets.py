"""Secrets in settings: where they come from, and that they are told to nobody.

A text of the settings may say ``${env:NAME}`` or ``${file:PATH}``, and gets what is there, so that a pipeline.yaml
holds none. What is secret by its setting's name, or as the password in a URL, is masked in logs and messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MASK = "********"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "jaas", ".pem", "authorization", "api-key", "user.info")
"""In the name of a setting, of a client's property or of a header."""
SHORTEST = 4
"""A shorter one is part of many a word, and guessed soon."""
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")
_PASSWORD = re.compile(r"//[^/@,:]*:([^/@,]*)@")
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
    """Whether a setting, a client's property or a header is secret by its name."""
    name = name.lower()
    return any(word in name for word in SECRET_WORDS) and not name.endswith(".location")


def keep(tree: Mapping[str, Any]) -> None:
    """Mask from now on what these settings hold that is secret."""
    for name, value in _texts(tree):
        found = [value, *value.splitlines()] if is_secret(name) else []
        for password in _PASSWORD.findall(value):
            found += [password, unquote(password)]
        for each in found:
            if len(each) >= SHORTEST:
                _known.update((each, json.dumps(each)[1:-1]))  # as logs in JSON have it


def masked(text: str) -> str:
    """A message without the secrets that are kept."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _texts(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each with the name that it stands under."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str):
            yield str(name), value
