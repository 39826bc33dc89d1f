"""How a route's videos become frames. See docs/video.md."""

from __future__ import annotations

import enum

from pydantic import Field

from headrace.pipeline.config_base import Section


class Sampling(enum.StrEnum):
    """Which frames of a video a model sees."""

    RATE = "rate"
    COUNT = "count"
    SCENE = "scene"
    NONE = "none"


class VideoSettings(Section):
    sample: Sampling = Field(
        default=Sampling.RATE,
        description="Which frames the model sees: `rate` (so many a second), `count` (so many in all), `scene` (one "
        "whenever the picture has changed), or `none`: the model gets the file as it is.",
    )
    frames_per_second: float = Field(
        default=1.0, gt=0, le=240, description="For `rate`: frames for each second of the video."
    )
    count: int = Field(default=8, ge=1, le=4096, description="For `count`: frames, spread evenly over the video.")
    scene_threshold: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="For `scene`: how much the picture must differ from the last sampled one, 0 (not at all) to 1.",
    )
    max_frames: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most frames of one video; `batch.max_records` and the model's max_batch_size bound them too, for "
        "they share one infer call. A longer video is sampled more sparsely.",
    )
    max_side_pixels: int = Field(
        default=640, ge=16, le=16_384, description="Frames are scaled down to this length of their longer side."
    )
    max_duration_seconds: float = Field(default=600.0, gt=0, le=86_400, description="Longer videos are refused.")
    max_pixels: int = Field(
        default=4096 * 2304, ge=256, le=64 * 1024 * 1024, description="Videos with more pixels a frame are refused."
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Time limit of sampling one video, once it has begun."
    )
