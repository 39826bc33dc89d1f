"""A result as a dictionary of its schema's fields, for fastavro, which is what our own writer is compared with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from headrace.pipeline.records import InferenceResult


def result_fields(result: InferenceResult) -> dict[str, Any]:
    """Every field of the current schema."""
    fields = asdict(result)
    fields["completed"] = fields.pop("completed_ms")
    fields["provenance"]["timestamp"] = fields["provenance"].pop("timestamp_ms")
    return fields
