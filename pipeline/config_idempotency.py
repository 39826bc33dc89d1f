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
        description="A record is a duplicate if its timestamp lies at most so far from that of the record of its event "
        "id whose result was committed last. Calls, retries and redrives are none (docs/idempotency.md).",
    )
    max_ids: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Ids that each partition remembers, the newest; of several routes of a topic the most counts. At "
        "most as many as are read in a rebalance at 20,000 a second: 4,320,000 by default.",
    )
