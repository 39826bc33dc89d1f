"""A Confluent-compatible schema registry (Confluent's, Apicurio's under ``/apis/ccompat/v7``, Karapace, Redpanda's)."""

from __future__ import annotations

import importlib
import importlib.util
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

from headrace.connectors.loopback import no_proxy_for_loopback
from headrace.pipeline.config import RegistrySettings
from headrace.pipeline.errors import ConfigError, FatalError, UnavailableError

T = TypeVar("T")

_SCHEMA_NOT_FOUND = 40403
_NOT_FOUND = 404
_CONFLICT = 409
_REFUSALS = frozenset((_CONFLICT, 422))  # incompatible, invalid
_TRANSIENT = frozenset((408, 425, 429))
_FORBIDDEN = 403
_NOT_OURS = frozenset((400, _FORBIDDEN, 422))
"""About one schema's id: no id of this registry's, or of a subject that is not ours to read. An event's sender chooses
the id, so it must not end the worker."""

SETTLING_SECONDS = 5.0
"""After an outage "no such id" is not believed for so long: Apicurio says so while it still loads what it stored."""
LOADING_SECONDS = 60.0
"""Loading takes no longer: if what we registered is not found for so long it was deleted, and is waited for no more."""


def _http_errors(*names: str) -> tuple[type[Exception], ...]:
    """Of the HTTP library that confluent-kafka uses: httpx2 in newer versions, httpx in older."""
    installed = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    return tuple(getattr(library, name) for library in installed for name in names)


_NO_ANSWER = _http_errors("TransportError")
_NO_REGISTRY: tuple[type[Exception], ...] = (
    *(ValueError, AttributeError, TypeError, KeyError),
    *_http_errors("RequestError", "InvalidURL"),
)
"""The client's ways of saying: this is not its JSON. An answer whose coding is broken, or that leads round in a circle,
is none of its either."""


class ConfluentRegistry:
    """Implements ``ports.SchemaRegistry``. Thread-safe; every request is tried once.

    Args:
        url: base URL, or several, comma-separated. Basic authentication: ``https://user:password@host``.
        timeout_seconds: limit of connecting, and of each wait for bytes.
        properties: further ones of confluent-kafka's client: TLS, authentication.

    Raises:
        ConfigError: the client does not know one of them, or cannot use it.
    """

    def __init__(
        self, url: str, timeout_seconds: float = 5.0, properties: Mapping[str, str | int | float | bool] | None = None
    ) -> None:
        self._no_answer_at = float("-inf")
        self._ours_missing_at: float | None = None
        self._subject = ""  # one of ours, once registered
        self._url = re.sub(r"//[^@,\s]*@", "//", url)  # for messages: without a password
        # Waiting and trying again is the caller's business, who knows how long.
        with no_proxy_for_loopback(url):
            config = {**(properties or {}), "url": url, "timeout": timeout_seconds, "max.retries": 0}
            try:
                self._client = SchemaRegistryClient(config)
            except (ValueError, TypeError, OSError) as error:
                raise ConfigError(f"registry.client: {error}") from error

    @classmethod
    def of(cls, settings: RegistrySettings) -> Self:
        """The one that the settings say. Raises ConfigError."""
        return cls(settings.url, settings.timeout_seconds, settings.client)

    def schema(self, schema_id: int) -> str | None:
        """The schema of an id, None if there is no such id, or none that we may read.

        Raises:
            UnavailableError: if the registry does not answer, or not now.
            FatalError: if what answers is no schema registry, or denies access.
        """
        found = self._ask(f"asked for schema {schema_id}", lambda: self._found(schema_id))
        return found.schema_str if found else None

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        """Sets the subject's compatibility level, registers the schema (again, if need be) and returns its id.

        Raises:
            UnavailableError: if the registry does not answer, or not now.
            FatalError: if it refuses the schema, is no schema registry, or denies access.
        """
        self._ask(
            f"asked to set {compatibility} on subject {subject}",
            lambda: self._set_compatibility(subject, compatibility),
        )
        return self._ask(f"offered a schema for subject {subject}", lambda: self._registered(subject, schema))

    def close(self) -> None:
        """Closes its connections."""
        # Its close() came with a later version than the oldest we support.
        self._client.__exit__()  # type: ignore[no-untyped-call]  # untyped in the library

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _found(self, schema_id: int) -> Schema | None:
        try:
            found = self._known(schema_id)
            if found is None:
                if time.monotonic() - self._no_answer_at < SETTLING_SECONDS:
                    raise UnavailableError(f"schema {schema_id} is not found, so soon after an outage")
                self._require_ours()
                found = self._known(schema_id)  # loading may have ended between the two questions
        except SchemaRegistryError as error:
            if error.http_status_code not in _NOT_OURS:
                raise
            if error.http_status_code == _FORBIDDEN and self._subject:
                self._client.get_versions(self._subject)  # raises if it is not that id alone that is forbidden
            return None
        return found

    def _known(self, schema_id: int) -> Schema | None:
        """None if the registry says that there is no such id. Raises what its client raises."""
        try:
            found = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND and error.error_code == _SCHEMA_NOT_FOUND:
                return None
            raise
        if found.schema_str is None:
            raise ValueError("the answer holds no schema")
        return found

    def _require_ours(self) -> None:
        """An outage may have come and gone between two questions: then what we registered is not found either."""
        if not self._subject:
            return
        try:
            self._client.get_versions(self._subject)
        except SchemaRegistryError as error:
            status = error.http_status_code
            if status >= 500 or status in _TRANSIENT:
                raise
            if status != _NOT_FOUND:
                return  # to register is allowed, to list is not: then that cannot be found out
            now = time.monotonic()
            self._ours_missing_at = self._ours_missing_at or now
            if now - self._ours_missing_at < LOADING_SECONDS:
                self._no_answer_at = now
                raise UnavailableError(f"subject {self._subject} is not found, which we registered") from error
        else:
            self._ours_missing_at = None

    def _set_compatibility(self, subject: str, level: str) -> None:
        """Apicurio answers 409 to all but one of the clients that set a subject's first level at once."""
        try:
            self._client.set_compatibility(subject, level)
        except SchemaRegistryError as error:
            if error.http_status_code != _CONFLICT:
                raise
            if self._client.get_compatibility(subject) != level:
                raise UnavailableError(
                    f"another client is setting the level of subject {subject}: try again"
                ) from error

    def _registered(self, subject: str, schema: str) -> int:
        try:
            schema_id = self._client.register_schema(subject, Schema(schema, "AVRO"))
        except SchemaRegistryError as error:
            if error.http_status_code not in _REFUSALS:
                raise
            raise FatalError(
                f"the schema registry at {self._url} refuses the schema for subject {subject}: {error.error_message} "
                "(another version of headrace, or another program, registered one that it is not compatible with: "
                "use other topics, or upgrade)"
            ) from error
        self._subject = subject
        return schema_id

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        where = f"the schema registry at {self._url}, {what},"
        try:
            return call()
        except OAuthTokenError as error:  # of who gives tokens, before the registry is asked
            raise UnavailableError(f"{where} needs a token that is not to be had: {error}") from error
        except _NO_ANSWER as error:
            self._no_answer_at = time.monotonic()
            raise UnavailableError(f"{where} does not answer: {str(error) or type(error).__name__}") from error
        except SchemaRegistryError as error:
            status, message = error.http_status_code, f"{where} answers {error.http_status_code}: {error.error_message}"
            if status >= 500 or status in _TRANSIENT:
                self._no_answer_at = time.monotonic()
                raise UnavailableError(message) from error
            hint = "check registry.url (Apicurio's ends in /apis/ccompat/v7)" if status == _NOT_FOUND else "see its log"
            raise FatalError(f"{message}; {hint}") from error
        except _NO_REGISTRY as error:
            raise FatalError(f"{where} does not answer as a registry does: check registry.url") from error
