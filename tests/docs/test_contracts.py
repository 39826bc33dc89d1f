"""docs/contracts.md tells every stage, header, limit and field there is; codes are in docs/errors.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.pipeline import headers, limits
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.records import Modality, Stage

DOCS = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
HEADERS = (
    headers.CORRELATION_ID,
    headers.REPLY_TOPIC,
    headers.REPLY_PARTITION,
    headers.DEADLINE,
    headers.PRIORITY,
    headers.TRACEPARENT,
    headers.TRACESTATE,
    headers.DEAD_LETTER_STAGE,
    headers.DEAD_LETTER_CODE,
    headers.DEAD_LETTER_REDRIVES,
    headers.RESULT_TYPE.decode(),
    headers.SHADOW_TYPE.decode(),
    headers.DEAD_LETTER_TYPE.decode(),
)


@pytest.mark.parametrize("name", [*Modality, *Stage, *HEADERS])
def test_name_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize("name", [name for name in vars(limits) if name.startswith("MAX_")])
def test_limit_is_documented(name: str) -> None:
    """By its number, and under the heading of its own: there is no other link between the two."""
    table = DOCS.partition("## Limits")[2].partition("\n## ")[0]
    assert f"| {getattr(limits, name):,} |" in table


@pytest.mark.parametrize("contract", Contract)
def test_every_field_of_a_record_is_documented(contract: Contract) -> None:
    fields = [field["name"] for field in json.loads(schema_json(contract))["fields"]]
    assert [name for name in fields if f"`{name}`" not in DOCS] == []
