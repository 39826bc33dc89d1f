"""Settings of a route's retries: infer attempts at once, and delay topics for what still fails. See docs/retries.md."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from headrace.pipeline.config_base import DELAY_PATTERN, Section

MAX_DELAYS = 16
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

Delay = Annotated[str, StringConstraints(pattern=DELAY_PATTERN)]
"""As it stands in the name of its topic: ``5s``, ``10m``, ``1h``."""


def delay_seconds(delay: Delay) -> float:
    """How long that is."""
    return int(delay[:-1]) * _UNIT_SECONDS[delay[-1]]


class RetrySettings(Section):
    max_attempts: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Infer attempts of a batch at once; an unreachable server costs none, and each half of a spent "
        "batch gets one more.",
    )
    initial_backoff_seconds: float = Field(
        default=0.1, gt=0, le=60, description="Wait before the second attempt; doubles each time."
    )
    max_backoff_seconds: float = Field(default=5.0, gt=0, le=600, description="Longest wait between attempts.")
    delays: tuple[Delay, ...] = Field(
        default=(),
        max_length=MAX_DELAYS,
        description="What may succeed later, but has spent its attempts, waits in a delay topic: first so long, then "
        "so long, … (`[5s, 1m, 10m]`), and becomes a dead letter only after the last. None: at once.",
    )
    jitter: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="A record waits up to this share of its delay longer, by chance, so that what failed together does "
        "not come back together.",
    )

    @model_validator(mode="after")
    def _backoff_grows(self) -> Self:
        if self.max_backoff_seconds < self.initial_backoff_seconds:
            raise ValueError("max_backoff_seconds must not be less than initial_backoff_seconds")
        return self

    @model_validator(mode="after")
    def _delays_grow(self) -> Self:
        seconds = [delay_seconds(each) for each in self.delays]
        if seconds != sorted(seconds):
            raise ValueError("delays must not become shorter: put the shortest first")
        return self
