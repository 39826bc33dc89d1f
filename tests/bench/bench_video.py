"""How long sampling a video takes, and how much memory. Run: ``python -m tests.bench.bench_video``.

Prints the figures of docs/video.md: clips of ten seconds made of the demo's photos, sampled by one real process.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import psutil

from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.inference import plan_of
from headrace.pipeline.ports import SamplingPlan
from tests.unit.mp4_files import PHOTOS

SECONDS, RATE, RUNS = 10, 30, 7
CLIPS = (("mp4v", 640, 360), ("vp09", 640, 360), ("mp4v", 1920, 1080))
PLAN = plan_of(VideoSettings(), 64)
PLANS: dict[str, SamplingPlan] = {
    "rate 1/s": PLAN,
    "rate 6/s": replace(PLAN, frames_per_second=6.0),
    "count 8": replace(PLAN, sample="count"),
    "scene": replace(PLAN, sample="scene"),
}


def clip(folder: Path, codec: str, width: int, height: int) -> bytes:
    """Five photos for two seconds each, moving slowly."""
    path = folder / f"{codec}-{width}.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), float(RATE), (width, height))
    photos = [cv2.imread(str(photo)) for photo in sorted(PHOTOS.iterdir())[:5]]
    frames = SECONDS * RATE
    for number in range(frames):
        photo = photos[number * len(photos) // frames]
        assert photo is not None
        shift = number % (2 * RATE)
        writer.write(cv2.resize(photo, (width + 60, height + 60))[shift : shift + height, shift : shift + width])
    writer.release()
    return path.read_bytes()


async def measure(content: bytes) -> str:
    sampler = ProcessSampler(1)
    began = time.perf_counter()
    await sampler.sample(content, PLAN)
    cells = [f"first {1000 * (time.perf_counter() - began):.0f} ms"]
    for name, plan in PLANS.items():
        best = float("inf")
        for _ in range(RUNS):
            began = time.perf_counter()
            frames = await sampler.sample(content, plan)
            best = min(best, time.perf_counter() - began)
        cells.append(
            f"{name}: {1000 * best:.0f} ms, {len(frames.images)} frames, {SECONDS * RATE / best:,.0f} decoded/s"
        )
    (pid,) = sampler.pids
    cells.append(f"process {psutil.Process(pid).memory_info().rss / 2**20:.0f} MB")
    await sampler.close()
    return "; ".join(cells)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for codec, width, height in CLIPS:
            content = clip(Path(folder), codec, width, height)
            print(f"{codec} {width} x {height}, {len(content) / 1e6:.1f} MB: {asyncio.run(measure(content))}")


if __name__ == "__main__":
    main()
