"""Decoding: frames of a video, chosen, turned upright, scaled down and encoded. Runs in the child process only."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2

from headrace.connectors.video.choosing import ByChange, ByTime, Chooser, Kept, Picture
from headrace.connectors.video.messages import too_slow
from headrace.connectors.video.mp4 import Track, VideoError, too_large
from headrace.pipeline.limits import MAX_DECODER_BYTES, MAX_FRAME_BYTES
from headrace.pipeline.ports import SamplingPlan

JPEG_QUALITY = 95
"""A video's frames have been through a lossier encoder: this loses nothing that is left, at a tenth of a PNG's size."""
FEWEST_DECODED = 0.9
"""Of the frames that the index lists. Decoders drop a few that refer to what came before the file's first."""

FFMPEG_OPTIONS = "input_format;mov|protocol_whitelist;file|enable_drefs;0|use_absolute_path;0"
"""One demuxer, no matter what the content looks like to others, and no file but the one that is handed over."""

OUT_OF_MEMORY = f"it takes more than {MAX_DECODER_BYTES:,} bytes to decode: send a smaller picture"

_DECODABLE = frozenset({"avc1", "avc3", "hvc1", "hev1", "mp4v", "vp08", "vp09", "jpeg", "mjpa", "mjpb", "s263", "h263"})
_OPTIONS = [cv2.CAP_PROP_N_THREADS, 1, cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_NONE]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was kept of a video, in order, and when the last frame is over."""

    kept: list[Kept]
    end_seconds: float


@dataclass(slots=True)
class _Seen:
    """What one pass over a video has seen of it."""

    frames: int = 0
    seconds: float = 0.0
    gap_seconds: float = 0.0


def sample(path: str, track: Track, plan: SamplingPlan) -> Sampled:
    """Decode all of a video and keep some.

    Raises:
        VideoError: ``BAD_VIDEO``, ``UNSUPPORTED_CODEC``, ``VIDEO_TOO_LARGE``, ``VIDEO_TOO_LONG`` or ``VIDEO_TOO_SLOW``.
    """
    deadline = time.monotonic() + plan.timeout_seconds
    chooser = _chooser(plan, track.seconds)
    seen = _pass(path, track, plan, chooser, deadline)
    end_seconds = min(seen.seconds + (track.last_seconds or seen.gap_seconds), plan.max_duration_seconds)
    if isinstance(chooser, ByTime) and plan.sample == "count":
        wanted = min(plan.count, plan.max_frames, seen.frames)
        if chooser.thinned or len(chooser.kept) < wanted:  # the index had its duration wrong: now it is known
            chooser = _chooser(plan, end_seconds)
            _pass(path, track, plan, chooser, deadline)
    return Sampled(chooser.kept, max(end_seconds, seen.seconds))


def _chooser(plan: SamplingPlan, seconds: float) -> Chooser:
    if plan.sample == "scene":
        return ByChange(plan.scene_threshold, plan.max_frames)
    if plan.sample == "rate":
        return ByTime(1 / plan.frames_per_second, plan.max_frames)
    count = min(plan.count, plan.max_frames)
    return ByTime(max(seconds, 1e-3) / count, count)


def _pass(path: str, track: Track, plan: SamplingPlan, chooser: Chooser, deadline: float) -> _Seen:
    """Offer every frame to the chooser."""
    seen = _Seen()
    with _opened(path, track) as capture:
        frame = _Frame(capture, plan)
        while capture.grab():
            if time.monotonic() > deadline:
                raise VideoError("VIDEO_TOO_SLOW", too_slow(plan.timeout_seconds))
            _see(seen, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, plan)
            frame.next()
            chooser.offer(seen.seconds, frame.picture, frame.encoded)
            if frame.was_encoded and sum(len(kept.image) for kept in chooser.kept) > MAX_FRAME_BYTES:
                message = f"its frames have more than {MAX_FRAME_BYTES:,} bytes: take fewer, or scale them down further"
                raise VideoError("VIDEO_TOO_LARGE", message)
    if not chooser.kept:
        raise VideoError("BAD_VIDEO", "none of its frames can be decoded: the file is damaged")
    if not track.cut and seen.frames < FEWEST_DECODED * track.samples:
        message = f"only {seen.frames:,} of its {track.samples:,} frames can be decoded: the file is damaged"
        raise VideoError("BAD_VIDEO", message)
    return seen


def _see(seen: _Seen, seconds: float, plan: SamplingPlan) -> None:
    if not math.isfinite(seconds) or seconds > plan.max_duration_seconds:
        message = f"it goes on for more than the {plan.max_duration_seconds:g} s that are allowed"
        raise VideoError("VIDEO_TOO_LONG", message)
    seconds = max(seconds, seen.seconds)
    if seen.frames:
        seen.gap_seconds = seconds - seen.seconds
    seen.seconds = seconds
    seen.frames += 1


@contextmanager
def _opened(path: str, track: Track) -> Iterator[cv2.VideoCapture]:
    """The file, opened by FFmpeg and nothing else."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = FFMPEG_OPTIONS  # OpenCV takes them from nowhere else
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, _OPTIONS)
    try:
        if not capture.isOpened():
            if track.codec in _DECODABLE:
                raise VideoError("BAD_VIDEO", f"its {track.codec} frames cannot be read: the file is damaged")
            message = f"no decoder for codec {track.codec!r}: send H.264, H.265, VP9 or MPEG-4 video"
            raise VideoError("UNSUPPORTED_CODEC", message)
        yield capture
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise VideoError("VIDEO_TOO_LARGE", OUT_OF_MEMORY) from None
        raise VideoError("BAD_VIDEO", f"it cannot be decoded: {error.err}"[:300]) from None
    except MemoryError:
        raise VideoError("VIDEO_TOO_LARGE", OUT_OF_MEMORY) from None
    finally:
        capture.release()


class _Frame:
    """The frame that the capture is at: converted and encoded when it is asked for."""

    def __init__(self, capture: cv2.VideoCapture, plan: SamplingPlan) -> None:
        self._capture = capture
        self._plan = plan
        self._picture: Picture | None = None
        self.was_encoded = False

    def next(self) -> None:
        self._picture = None
        self.was_encoded = False

    def picture(self) -> Picture:
        """Upright, as large as it is."""
        if self._picture is None:
            there, picture = self._capture.retrieve()
            if not there:
                raise VideoError("BAD_VIDEO", "a frame cannot be converted: the file is damaged")
            height, width = picture.shape[:2]
            if height * width > self._plan.max_pixels:
                raise VideoError("VIDEO_TOO_LARGE", too_large(width, height, self._plan.max_pixels))
            self._picture = picture
        return self._picture

    def encoded(self) -> bytes:
        """Upright, scaled down, as a JPEG."""
        self.was_encoded = True
        picture = _scaled(self.picture(), self._plan.max_side_pixels)
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return data.tobytes()


def _scaled(picture: Picture, max_side_pixels: int) -> Picture:
    height, width = picture.shape[:2]
    scale = max_side_pixels / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
