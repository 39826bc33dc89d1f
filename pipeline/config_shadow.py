"""Settings of a route's shadow: a candidate model that answers a share of live events as well. See docs/shadow.md."""

from __future__ import annotations

from pydantic import Field

from headrace.pipeline.config_base import VERSION_PATTERN, Name, Section


class ShadowSettings(Section):
    """A candidate for the route's model: see docs/shadow.md."""

    model: Name | None = Field(default=None, description="Triton model that is tried; default the route's.")
    version: str = Field(default="", pattern=VERSION_PATTERN, description="Its version; empty lets Triton choose.")
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the route's events that it answers as well, by a hash of their ids: always the same "
        "ones, and those that `headrace replay --filter sample=` takes.",
    )
    patience_seconds: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="How long an event that is answered may wait for its shadow before its result goes without.",
    )
    max_concurrency: int = Field(
        default=2, ge=1, le=256, description="Infer calls in flight, beside those of the route."
    )

    def is_of(self, model: str, version: str) -> bool:
        """Whether it is this model in this version, however that is written ("01" is "1" to the server)."""
        return self.model in (None, model) and self.version.lstrip("0") == version.lstrip("0")
