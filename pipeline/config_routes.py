"""Settings of routes: which model answers what, how, and what if it does not."""

from __future__ import annotations

import enum
from typing import Self

from pydantic import Field, model_validator

from headrace.pipeline.config_base import VERSION_PATTERN, Name, Section, TopicName
from headrace.pipeline.config_breaker import BreakerSettings, FallbackSettings
from headrace.pipeline.config_idempotency import IdempotencySettings
from headrace.pipeline.config_output import AlsoTo
from headrace.pipeline.config_retries import RetrySettings
from headrace.pipeline.config_shadow import ShadowSettings
from headrace.pipeline.config_video import Sampling, VideoSettings
from headrace.pipeline.records import Modality


class Ordering(enum.StrEnum):
    """In which order a route's results are released."""

    PARTITION = "partition"
    KEY = "key"
    NONE = "none"


class Match(Section):
    """All that is given must match; lists match any of their entries; `*` and `?` are wildcards."""

    modality: tuple[Modality, ...] = Field(default=(), description="Modalities of the part.")
    content_type: tuple[str, ...] = Field(default=(), description="Content types of the part (`image/*`).")
    type: tuple[str, ...] = Field(default=(), description="Event types.")
    source: tuple[str, ...] = Field(default=(), description="Event sources.")
    headers: dict[str, str] = Field(default_factory=dict, description="Record headers and the value each must have.")
    explicit: bool = Field(default=False, description="Match only events that name this route's model themselves.")


class BatchSettings(Section):
    max_records: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Records in one infer call, each frame of a video counting as one; at most the model's "
        "max_batch_size.",
    )
    max_delay_seconds: float = Field(
        default=0.005,
        ge=0,
        le=60,
        description="How long a record may wait for others while calls are in flight; an idle route never waits.",
    )
    max_bytes: int = Field(default=16 * 1024 * 1024, ge=1, description="Content bytes in one infer call.")


class RouteSettings(Section):
    name: Name = Field(description="Unique name, used in metrics, logs and results.")
    model: Name = Field(description="Triton model that answers.")
    version: str = Field(default="", pattern=VERSION_PATTERN, description="Model version; empty lets Triton choose.")
    match: Match = Field(
        default_factory=Match, description="Which parts of which events take this route: all, if empty."
    )
    topics: tuple[TopicName, ...] = Field(
        default=(),
        description="Lanes: request topics of this route, which takes nothing else, and from which no route without "
        "`topics` takes anything. Each must be in `topics.requests`.",
    )
    batch: BatchSettings = Field(default_factory=BatchSettings, description="How records become infer calls.")
    video: VideoSettings = Field(default_factory=VideoSettings, description="How videos become frames for the model.")
    max_concurrency: int = Field(default=4, ge=1, le=256, description="Infer calls in flight.")
    ordering: Ordering = Field(default=Ordering.KEY, description="Order of results: `partition`, `key` or `none`.")
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Age past which a record is refused; its own `deadline` header goes first.",
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, le=3600, description="Time limit of one infer call; default triton's."
    )
    retries: RetrySettings = Field(default_factory=RetrySettings, description="How often, and when, again.")
    breaker: BreakerSettings | None = Field(
        default=None, description="Stops calls to a model that fails again and again."
    )
    fallback: FallbackSettings | None = Field(
        default=None, description="A model that answers while the breaker is open; it needs `breaker`."
    )
    reply_topic: TopicName | None = Field(default=None, description="Where results go; default `topics.results`.")
    reply_topics_allowed: tuple[TopicName, ...] = Field(
        default=(), description="Topics a record's `reply_topic` header may name; any other is ignored."
    )
    also_to: tuple[AlsoTo, ...] = Field(default=(), description="Second records, beside the result.")
    shadow: ShadowSettings | None = Field(
        default=None, description="A candidate model that answers a share of the events as well, and no caller."
    )
    idempotency: IdempotencySettings | None = Field(
        default=None, description="Drops repeated events, by their id, whose last result is inside a window."
    )

    @model_validator(mode="after")
    def _fallback_differs(self) -> Self:
        if self.fallback is None:
            return self
        if self.breaker is None:
            raise ValueError("fallback needs a breaker, which says when: add breaker: {}")
        if self.fallback.model == self.model:
            raise ValueError("fallback is the route's own model: name another, for this one's breaker is open")
        return self

    @model_validator(mode="after")
    def _shadow_differs(self) -> Self:
        if self.shadow is not None and self.shadow.is_of(self.model, self.version):
            raise ValueError("shadow is the route's own model and version: name another version, or another model")
        return self


def default_routes() -> tuple[RouteSettings, ...]:
    """Routes over the bundled models: what runs when no file is given."""
    return (
        RouteSettings(
            name="text",
            model="text_embedding",
            match=Match(modality=(Modality.TEXT,)),
            batch=BatchSettings(max_records=32),
        ),
        RouteSettings(
            name="image",
            model="image_jpeg",
            match=Match(modality=(Modality.IMAGE,)),
            batch=BatchSettings(max_records=8, max_delay_seconds=0.01),
        ),
        RouteSettings(name="audio", model="audio_vad", match=Match(modality=(Modality.AUDIO,))),
        RouteSettings(
            name="video",
            model="image_jpeg",
            match=Match(modality=(Modality.VIDEO,)),
            batch=BatchSettings(max_records=64, max_delay_seconds=0.01),
        ),
        RouteSettings(
            name="image-tensor",
            model="image_classification",
            match=Match(modality=(Modality.TENSOR,), explicit=True),
            batch=BatchSettings(max_records=8),
        ),
        RouteSettings(
            name="identity",
            model="identity",
            match=Match(modality=(Modality.TENSOR,)),
            batch=BatchSettings(max_records=64),
        ),
        RouteSettings(
            name="affine",
            model="affine",
            match=Match(modality=(Modality.TENSOR,), explicit=True),
            batch=BatchSettings(max_records=64),
        ),
        RouteSettings(name="delay", model="delay", match=Match(modality=(Modality.TENSOR,), explicit=True)),
        # Of the models that `headrace up` serves when asked to (`--extra`).
        RouteSettings(
            name="speech-to-text",
            model="speech_to_text",
            match=Match(modality=(Modality.AUDIO,), explicit=True),
            batch=BatchSettings(max_records=4),
            timeout_seconds=120.0,
        ),
        RouteSettings(
            name="content-type",
            model="content_type",
            match=Match(explicit=True),
            batch=BatchSettings(max_records=64),
            video=VideoSettings(sample=Sampling.NONE),
        ),
    )
