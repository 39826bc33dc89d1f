"""Real decoding processes: what they make of good files, and that no file gets more than its share of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from headrace.connectors.video import frames as decoding
from headrace.connectors.video.mp4 import Track, VideoError
from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.inference import plan_of
from headrace.pipeline.limits import MAX_DECODER_BYTES
from headrace.pipeline.ports import Frames, SamplingPlan
from tests.unit.mp4_files import Mp4, fragmented, jpeg, photo, plain, slow

PLAN = plan_of(VideoSettings(), 64)
CLIP = [photo(name) for name in ("cat.jpg", "coffee.jpg", "rocket.jpg") for _ in range(20)]
SPARE_SECONDS = 3.0
"""On top of a plan's time, for a busy machine."""


@pytest.fixture
async def sampler() -> AsyncIterator[ProcessSampler]:
    made = ProcessSampler(1)
    yield made
    await made.close()
    assert made.pids == frozenset()


async def sample(sampler: ProcessSampler, data: bytes, **changes: object) -> Frames:
    plan: SamplingPlan = replace(PLAN, **changes)  # type: ignore[arg-type] # fields of a plan, by name
    return await sampler.sample(data, plan)


async def refusal(sampler: ProcessSampler, data: bytes, **changes: object) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        await sample(sampler, data, **changes)
    assert caught.value.stage == "prepare"
    return caught.value


async def only_process(sampler: ProcessSampler, but: frozenset[int] = frozenset()) -> int:
    """The decoding process, as soon as there is one."""
    async with asyncio.timeout(20):
        while not sampler.pids - but:  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.01)
    (pid,) = sampler.pids - but
    return pid


def pixels(image: bytes) -> cv2.typing.MatLike:
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


# --- what is sampled ------------------------------------------------------------------------------------------------


async def test_frames_are_taken_by_rate_with_their_times(sampler: ProcessSampler) -> None:
    found = await sample(sampler, Mp4(CLIP).content(), frames_per_second=2.0)
    assert found.seconds == pytest.approx([index / 2 for index in range(12)])
    assert found.end_seconds == pytest.approx(6.0)
    for image, original in zip(found.images[::4], CLIP[::20], strict=True):
        difference = np.abs(pixels(image).astype(int) - pixels(original))
        assert difference.mean() < 2  # of 255: two JPEGs of the same picture


async def test_times_of_a_variable_rate_are_the_files_own(sampler: ProcessSampler) -> None:
    data = Mp4(CLIP[::12], ticks=[100, 2000, 60, 60, 500]).content()
    found = await sample(sampler, data, frames_per_second=20.0)
    assert found.seconds == pytest.approx([0, 0.1, 2.1, 2.16, 2.22])
    assert found.end_seconds == pytest.approx(2.72)


@pytest.mark.parametrize("declared", [None, 1_000, 100_000], ids=["true", "too short", "too long"])
async def test_count_is_spread_over_the_whole_video(sampler: ProcessSampler, declared: int | None) -> None:
    found = await sample(sampler, Mp4(CLIP, declared_ticks=declared).content(), sample="count", count=6)
    assert found.seconds == pytest.approx([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("changes", [{}, {"sample": "count", "count": 6}], ids=["rate", "count"])
async def test_fragmented_file_is_sampled_as_any(sampler: ProcessSampler, changes: dict[str, object]) -> None:
    """It says nowhere how long it is."""
    found = await sample(sampler, fragmented(CLIP), **changes)
    assert found.seconds == pytest.approx([0, 1, 2, 3, 4, 5])
    assert found.end_seconds == pytest.approx(6.0)


async def test_count_beyond_the_frames_takes_each_once(sampler: ProcessSampler) -> None:
    found = await sample(sampler, Mp4(CLIP[:5]).content(), sample="count", count=30)
    assert found.seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


async def test_video_is_sampled_as_far_as_its_edit_list_shows_it(sampler: ProcessSampler) -> None:
    found = await sample(sampler, Mp4(CLIP, edits=[(2000, 0)]).content())
    assert found.seconds == pytest.approx([0, 1])
    found = await sample(sampler, Mp4(CLIP, edits=[(2000, 3000)]).content())
    assert found.seconds == pytest.approx([0, 1])


async def test_damage_is_found_in_spite_of_an_encoders_delay(sampler: ProcessSampler) -> None:
    damaged = [*CLIP[:20], *[b"no picture"] * 40]
    error = await refusal(sampler, Mp4(damaged, edits=[(6000, 100)]).content())
    assert error.code == "BAD_VIDEO"
    assert "can be decoded: the file is damaged" in error.message


async def test_scenes_are_found(sampler: ProcessSampler) -> None:
    found = await sample(sampler, Mp4(CLIP).content(), sample="scene")
    assert found.seconds == pytest.approx([0, 2, 4])


async def test_more_frames_than_allowed_are_thinned_not_cut(sampler: ProcessSampler) -> None:
    found = await sample(sampler, Mp4(CLIP).content(), frames_per_second=10.0, max_frames=16)
    assert found.seconds == pytest.approx([index * 0.4 for index in range(15)])


@pytest.mark.parametrize(("turned", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
async def test_frames_are_upright(sampler: ProcessSampler, turned: int, corner: tuple[int, int]) -> None:
    """The picture's upper left quarter is white, and where the file says that it is to be turned to."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    found = await sample(sampler, Mp4([jpeg(picture)] * 2, size=(64, 48), turned=turned).content())
    upright = pixels(found.images[0])
    assert upright.shape[:2] == ((64, 48) if turned in (90, 270) else (48, 64))
    bright = {at: int(upright[at[0], at[1]].mean()) for at in ((0, 0), (0, -1), (-1, -1), (-1, 0))}
    assert max(bright, key=bright.__getitem__) == corner


async def test_frames_are_scaled_down_never_up(sampler: ProcessSampler) -> None:
    data = Mp4([photo("cat.jpg", 640, 360)] * 3, size=(640, 360)).content()
    shapes = [pixels((await sample(sampler, data, max_side_pixels=side)).images[0]).shape for side in (320, 4096)]
    assert shapes == [(180, 320, 3), (360, 640, 3)]


@pytest.mark.parametrize("codec", ["mp4v", "vp09"])
async def test_other_codecs_are_decoded(sampler: ProcessSampler, tmp_path: Path, codec: str) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10.0, (320, 180))
    for frame in CLIP:
        writer.write(pixels(frame))
    writer.release()
    found = await sample(sampler, await asyncio.to_thread((tmp_path / "v.mp4").read_bytes))
    assert found.seconds == pytest.approx([0, 1, 2, 3, 4, 5])
    for image, original in zip(found.images[::2], CLIP[::20], strict=True):
        assert np.abs(pixels(image).astype(int) - pixels(original)).mean() < 8  # of 255: a lossy codec


async def test_processes_are_used_again_and_no_more_are_started_than_needed() -> None:
    sampler = ProcessSampler(4)
    data = Mp4(CLIP[:3]).content()
    for _ in range(5):
        await sample(sampler, data)
    assert len(sampler.pids) == 1
    await asyncio.gather(*(sample(sampler, data) for _ in range(12)))
    assert len(sampler.pids) <= 4
    await sampler.close()


# --- what is refused ------------------------------------------------------------------------------------------------


async def test_bad_video_is_refused_and_the_process_lives_on(sampler: ProcessSampler) -> None:
    frames = CLIP[:3]
    noise = np.random.default_rng(1).bytes(3000)
    refused = {
        "cut short": (Mp4(CLIP).content()[:-300], "VIDEO_TRUNCATED"),
        "no frames": (Mp4([]).content(), "VIDEO_EMPTY"),
        "noise for frames": (Mp4([noise] * 3).content(), "BAD_VIDEO"),
        "noise for most": (Mp4([*frames, *[noise] * 9]).content(), "BAD_VIDEO"),
        "other frames than its codec's": (Mp4(frames, codec=b"avc1").content(), "BAD_VIDEO"),
        "unknown codec": (Mp4(frames, codec=b"av01").content(), "UNSUPPORTED_CODEC"),
        "larger than it says": (Mp4([plain(9, 5000, 5000)] * 2, size=(64, 48)).content(), "VIDEO_TOO_LARGE"),
        "longer than allowed": (Mp4(frames, ticks=[10**6] * 3).content(), "VIDEO_TOO_LONG"),
        "larger than allowed": (Mp4(frames, size=(9000, 9000)).content(), "VIDEO_TOO_LARGE"),
        "another file's frames": (Mp4(frames, reference=b"url file:///etc/hostname\0").content(), "BAD_VIDEO"),
    }
    await sample(sampler, Mp4(frames).content())
    before = sampler.pids
    found = {name: (await refusal(sampler, data)).code for name, (data, _) in refused.items()}
    assert found == {name: code for name, (_, code) in refused.items()}
    assert sampler.pids == before


def look_at(path: Path) -> decoding.Sampled:
    """As the process does it, without having looked at the file's boxes before."""
    return decoding.sample(str(path), Track("jpeg", 64, 48, 0, 0.0, 0.0, cut=True), PLAN)


def test_only_one_demuxer_is_ever_used(tmp_path: Path) -> None:
    """Whatever content looks like another format to FFmpeg is not read as one, and no other file is opened."""
    fifo = tmp_path / "other"
    os.mkfifo(fifo)
    avi = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(avi), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert cv2.VideoCapture(str(avi), cv2.CAP_FFMPEG).isOpened()
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{fifo}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "concat.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile '{fifo}'\n")
    for path in (avi.rename(tmp_path / "video.mp4"), playlist, concat):
        with pytest.raises(VideoError, match="cannot be read"):
            look_at(path)
    with pytest.raises(OSError, match="No such device"):  # nobody has it open, nor ever had: to open it is to wait
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_time_is_bounded_and_the_process_lives_on(sampler: ProcessSampler) -> None:
    await sample(sampler, Mp4(CLIP[:3]).content())
    data = slow()
    before, began = sampler.pids, time.monotonic()
    error = await refusal(sampler, data, sample="scene", timeout_seconds=0.5)
    assert error.code == "VIDEO_TOO_SLOW"
    assert "0.5 s" in error.message
    assert time.monotonic() - began < 0.5 + SPARE_SECONDS
    assert sampler.pids == before


async def test_process_that_hangs_is_ended_and_replaced(sampler: ProcessSampler) -> None:
    await sample(sampler, Mp4(CLIP[:3]).content())
    (pid,) = sampler.pids
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert (await refusal(sampler, Mp4(CLIP).content(), timeout_seconds=0.5)).code == "VIDEO_TOO_SLOW"
    assert time.monotonic() - began < 0.5 + 2 + SPARE_SECONDS
    assert not psutil.pid_exists(pid)
    assert len((await sample(sampler, Mp4(CLIP).content())).images) == 6


async def test_cpu_time_is_bounded(sampler: ProcessSampler) -> None:
    await sample(sampler, Mp4(CLIP).content(), timeout_seconds=7.0)
    (pid,) = sampler.pids
    used = psutil.Process(pid).cpu_times()
    assert resource.prlimit(pid, resource.RLIMIT_CPU)[0] <= used.user + used.system + 7 + 4
    sampling = asyncio.create_task(refusal(sampler, slow(), sample="scene"))
    await asyncio.sleep(0)
    os.kill(await only_process(sampler), signal.SIGXCPU)
    assert (await sampling).code == "VIDEO_TOO_SLOW"


def bomb(side: int = 60_000) -> bytes:
    """A JPEG of a few kilobytes that claims to have so many pixels a side."""
    data = bytearray(plain(9))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


def of_process(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


def status_bytes(pid: int, name: str) -> int:
    lines = of_process(pid, "status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


@pytest.mark.parametrize(
    "data",
    [
        Mp4([bomb()] * 3, size=(64, 48)).content(),
        Mp4([bomb(16_000)] * 3, size=(64, 48)).content(),
        Mp4([plain(9)] * 3, size=(8192, 8192)).content(),
        Mp4([plain(9, 8192, 8192)] * 2, size=(64, 48)).content(),
    ],
    ids=["claims 3.6 gigapixels", "claims 256 megapixels", "track claims more", "frames have more"],
)
async def test_memory_is_bounded(sampler: ProcessSampler, data: bytes) -> None:
    await sample(sampler, Mp4(CLIP[:3]).content())
    (pid,) = sampler.pids
    before = status_bytes(pid, "VmRSS")
    limit = resource.prlimit(pid, resource.RLIMIT_AS)[0]
    assert limit <= status_bytes(pid, "VmSize") + MAX_DECODER_BYTES
    with contextlib.suppress(PoisonError):
        await sample(sampler, data, max_pixels=64 * 1024 * 1024)
    if pid in sampler.pids:
        assert status_bytes(pid, "VmHWM") < before + MAX_DECODER_BYTES
        assert status_bytes(pid, "VmPeak") <= limit
    assert len((await sample(sampler, Mp4(CLIP).content())).images) == 6


async def test_largest_picture_that_settings_can_allow_fits_the_memory(sampler: ProcessSampler) -> None:
    data = Mp4([plain(9, 8192, 8192)] * 2, size=(8192, 8192)).content()
    found = await sample(sampler, data, max_pixels=64 * 1024 * 1024)
    assert pixels(found.images[0]).shape == (640, 640, 3)


async def test_process_can_open_few_files_and_write_none(sampler: ProcessSampler) -> None:
    await sample(sampler, Mp4(CLIP[:3]).content())
    (pid,) = sampler.pids
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[1] < 30
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert of_process(pid, "oom_score_adj").strip() == "1000"


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_video_whose_process_is_killed_is_tried_once_more(sampler: ProcessSampler) -> None:
    sampling = asyncio.create_task(refusal(sampler, slow(), sample="scene", timeout_seconds=2.0))
    first = await only_process(sampler)
    os.kill(first, signal.SIGKILL)
    await only_process(sampler, but=frozenset({first}))
    assert (await sampling).code == "VIDEO_TOO_SLOW"  # by the second, in peace


async def test_video_that_kills_every_process_is_given_up(sampler: ProcessSampler) -> None:
    sampling = asyncio.create_task(refusal(sampler, slow(), sample="scene"))
    first = await only_process(sampler)
    os.kill(first, signal.SIGSEGV)
    os.kill(await only_process(sampler, but=frozenset({first})), signal.SIGSEGV)
    error = await sampling
    assert error.code == "BAD_VIDEO"
    assert "SIGSEGV" in error.message


async def test_cancelled_sampling_ends_its_process(sampler: ProcessSampler) -> None:
    sampling = asyncio.create_task(sample(sampler, slow(), sample="scene"))
    pid = await only_process(sampler)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling
    assert not psutil.pid_exists(pid)
    assert len((await sample(sampler, Mp4(CLIP).content())).images) == 6


async def test_close_ends_processes_at_work(sampler: ProcessSampler) -> None:
    sampling = asyncio.create_task(sample(sampler, slow(), sample="scene"))
    pid = await only_process(sampler)
    await sampler.close()
    with pytest.raises(Exception, match="ending"):
        await sampling
    assert not psutil.pid_exists(pid)


OWNER = """
import asyncio, sys
from dataclasses import replace
from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.inference import plan_of

async def main():
    sampler = ProcessSampler(1)
    plan = replace(plan_of(VideoSettings(), 64), sample="scene")
    sampling = asyncio.create_task(sampler.sample(sys.stdin.buffer.read(), plan))
    while not sampler.pids and not sampling.done():
        await asyncio.sleep(0.01)
    print(*sampler.pids, flush=True)
    await sampling

asyncio.run(main())
"""


def test_process_does_not_outlive_its_owner_however_that_ends() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdin is not None
    assert owner.stdout is not None
    owner.stdin.write(slow())
    owner.stdin.close()
    child = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    child.wait(5)


def test_worker_itself_loads_no_decoder() -> None:
    """Its memory, and what a video could reach, stay as they are without videos."""
    loaded = "import sys, headrace.pipeline.app; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
