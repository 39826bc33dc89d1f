"""What the codecs share."""

from __future__ import annotations

from headrace.pipeline.errors import PoisonError
from headrace.pipeline.light import light_dataclass
from headrace.pipeline.records import Part, Stage


@light_dataclass(frozen=True, slots=True)
class Row:
    """One row of a model's input, checked.

    Attributes:
        value: little-endian, row-major bytes of a numeric tensor; for ``BYTES`` a tuple of the elements.
        weight_bytes: size of the content.
        shape: without the batch dimension, fully known.
    """

    value: bytes | tuple[bytes, ...]
    weight_bytes: int
    shape: tuple[int, ...]


def poison(part: Part | str, code: str, message: str) -> PoisonError:
    """A PoisonError of stage ``prepare`` that names the part."""
    name = part if isinstance(part, str) else part.name
    return PoisonError(Stage.PREPARE, code, f"part {name[:100]!r}: {message}")


def media_parameter(part: Part, name: str) -> str | None:
    """A parameter of the part's content type (``charset``), in lower case and unquoted, None if absent."""
    for parameter in part.content_type.split(";")[1:]:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"').lower()
    return None


def need_bytes(part: Part, content: bytes | str, what: str) -> bytes:
    """The content, which must be bytes and not empty."""
    if isinstance(content, str):
        raise poison(part, "BAD_CONTENT", f"{what} must be bytes, not a string")
    if not content:
        raise poison(part, "EMPTY_CONTENT", f"the {what} is empty")
    return content
