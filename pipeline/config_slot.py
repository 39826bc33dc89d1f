"""The type of ``worker.slot``: a number, or the word that takes it from the host name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

SLOT_OF_HOST = "hostname"
HIGHEST_SLOT = 9999


def _word_or_number(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == SLOT_OF_HOST else number(value)


def _schema(schema: dict[str, Any]) -> None:
    number = {key: schema.pop(key) for key in ("type", "minimum", "maximum")}
    schema["anyOf"] = [number, {"const": SLOT_OF_HOST}]


Slot = Annotated[
    int,
    Field(ge=0, le=HIGHEST_SLOT, json_schema_extra=_schema),
    WrapValidator(_word_or_number),
    PlainSerializer(lambda slot: slot),
]
"""In settings that were only read it may still be the word: ``slot.slot_number`` gives a running worker its number."""
