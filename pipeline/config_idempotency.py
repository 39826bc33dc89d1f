"""Settings of a route's idempotency: upstream duplicates give one result. See docs/idempotency.md."""

from __future__ import annotations

from pydantic import Field

from headrace.pipeline.config_base import Section


class IdempotencySettings(Section):
    """What counts as a duplicate: see docs/idempotency.md."""

    window_seconds: float = Field(
        default=600.0,
        gt=0,
        le=604_800,
        description="Records of one event id are duplicates if their timestamps lie at most so far apart.",
    )
    max_ids: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Ids that each partition remembers, the newest; of several routes of a topic the most counts.",
    )
