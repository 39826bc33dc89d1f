"""Settings of a route's circuit breaker, and of what answers instead. See docs/breakers.md."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from headrace.pipeline.config_base import VERSION_PATTERN, Name, Section


class BreakerSettings(Section):
    """Stops calls to a model that fails, and finds out when it is well again: see docs/breakers.md."""

    failures: int = Field(default=5, ge=1, le=1000, description="Infer calls that fail in a row, until it opens.")
    open_seconds: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="How long no call is made, before one is made to find out; twice as long each time that fails.",
    )
    max_open_seconds: float = Field(default=60.0, gt=0, le=3600, description="Longest such time.")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_open_seconds < self.open_seconds:
            raise ValueError("max_open_seconds must not be less than open_seconds")
        return self


class FallbackSettings(Section):
    """A model that answers while the breaker of the route's own is open: see docs/breakers.md."""

    model: Name = Field(description="Triton model that answers instead; it takes the same parts.")
    version: str = Field(default="", pattern=VERSION_PATTERN, description="Its version; empty lets Triton choose.")
