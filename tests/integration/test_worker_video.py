"""Videos through a real worker and the real model: labels over time, in one call, and nothing that a video can do."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.ports import InferCall
from tests.integration.avro_ends import DATA, Datum, event, image, numbers, output
from tests.integration.harness import Scene, WorkerProcess, wait_until
from tests.unit.mp4_files import Mp4, photo, slow

WIDTH, HEIGHT, RATE = 640, 360, 10
TOLERANCE = 1e-4
"""Scores of another batch of the same frames: sums in another order."""


def video(content: bytes, name: str = "clip") -> Datum:
    return {"name": name, "modality": "VIDEO", "content_type": "video/mp4", "content": content}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds each of a cat, a coffee and a camera."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for name in ("cat.jpg", "coffee.jpg", "camera.jpg"):
        pixels = cv2.imread(str(DATA / "photos" / name))
        assert pixels is not None
        for _ in range(2 * RATE):
            writer.write(cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    writer.release()
    return path


@pytest.fixture(scope="module")
def scene(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A worker with the default routes."""
    prefix = f"worker-video.{stack.bootstrap_servers.rpartition(':')[2]}"
    with Scene(stack, prefix, tmp_path_factory.mktemp("video")) as scene:
        scene.worker()
        yield scene


async def direct(stack: Endpoints, clip: Path, numbers: list[int]) -> list[dict[str, float]]:
    """What the model says of single frames of a clip, decoded here and sent to it by themselves."""
    capture = cv2.VideoCapture(str(clip))
    client = TritonInferenceClient(stack.triton_grpc)
    said = []
    for number in range(numbers[-1] + 1):
        there, pixels = capture.read()
        assert there
        if number in numbers:
            rows = np.empty((1, 1), np.object_)
            rows[0, 0] = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            outputs = (await client.infer(InferCall("image_jpeg", "", {"ENCODED": rows}), 60)).outputs
            names = [name.decode() for name in outputs["LABELS"][0]]
            said.append(dict(zip(names, outputs["SCORES"][0].tolist(), strict=True)))
    capture.release()
    await client.close()
    return said


async def test_video_is_labelled_over_time_as_its_frames_are_by_themselves(
    scene: Scene, stack: Endpoints, clip: Path
) -> None:
    content = await asyncio.to_thread(clip.read_bytes)
    (sent,) = scene.send_events([event(video(content))])
    answer = scene.settle([sent])[sent.position]
    assert not answer.dead
    found = output(answer)
    assert (found["part"], found["route"], found["model"], found["batch_size"]) == ("clip", "video", "image_jpeg", 6)

    assert [(each["start_seconds"], each["end_seconds"]) for each in found["segments"]] == [(0, 2), (2, 4), (4, 6)]
    for segment, word in zip(found["segments"], ("cat", "espresso", "tripod"), strict=True):
        assert word in segment["label"]
        assert segment["text"] is None

    frames = await direct(stack, clip, [0, 10, 20, 30, 40, 50])
    assert [each["label"] for each in found["segments"]] == [max(said, key=said.__getitem__) for said in frames[::2]]
    for segment, pair in zip(found["segments"], (frames[:2], frames[2:4], frames[4:]), strict=True):
        assert segment["score"] == pytest.approx(sum(each[segment["label"]] for each in pair) / 2, abs=TOLERANCE)
    means = {name: sum(each.get(name, 0) for each in frames) / 6 for each in frames for name in each}
    best = sorted(means.items(), key=lambda item: -item[1])[:5]
    assert [each["name"] for each in found["labels"][:3]] == [name for name, _ in best[:3]]
    assert [each["score"] for each in found["labels"]] == pytest.approx([score for _, score in best], abs=TOLERANCE)

    (seconds,) = found["tensors"]
    assert (seconds["name"], seconds["tensor"]["datatype"]) == ("FRAME_SECONDS", "FP64")
    assert struct.unpack("<6d", seconds["tensor"]["data"]) == pytest.approx([0, 1, 2, 3, 4, 5])


def test_video_among_the_parts_of_an_event_is_answered_with_them(scene: Scene, clip: Path) -> None:
    cat = (DATA / "photos" / "cat.jpg").read_bytes()
    (sent,) = scene.send_events([event(image(cat), video(clip.read_bytes()), numbers(1))])
    answer = scene.settle([sent])[sent.position]
    assert not answer.dead
    assert [each["route"] for each in answer.content["outputs"]] == ["image", "video", "identity"]


def test_bad_videos_become_dead_letters_that_say_why_and_others_go_on(scene: Scene, clip: Path) -> None:
    good, frames = clip.read_bytes(), [photo("cat.jpg")] * 5
    events = {
        "": event(video(good)),
        "BAD_VIDEO": event(video(b"\0\0\0\x18ftyp" + b"#EXTM3U\nfile:///etc/hostname\n" * 4)),
        "VIDEO_TRUNCATED": event(video(good[: len(good) // 2])),
        "VIDEO_EMPTY": event(video(Mp4([]).content())),
        "VIDEO_TOO_LARGE": event(video(Mp4(frames, size=(16_000, 16_000)).content())),
        "VIDEO_TOO_LONG": event(video(Mp4(frames, ticks=[10**6] * 5).content())),
        "UNSUPPORTED_CODEC": event(video(Mp4(frames, codec=b"av01").content())),
    }
    sent = scene.send_events(events.values())
    found = scene.settle(sent)
    answers = [found[record.position] for record in sent]
    assert [answer.content["code"] if answer.dead else "" for answer in answers] == [*events]
    for answer, code in zip(answers, events, strict=True):
        if code:
            assert answer.content["stage"] == "prepare"
            assert answer.content["message"].startswith("part 'clip': ")
            assert answer.content["route"] == "video"


def test_videos_and_images_of_one_route_share_calls(
    stack: Endpoints, tmp_path: Path, clip: Path, names: Callable[[str], str]
) -> None:
    """A route that takes both, busy enough for calls to fill: a call has up to 64 rows, never a part of a video."""
    route = {
        "name": "seen",
        "model": "image_jpeg",
        "match": {"modality": ["IMAGE", "VIDEO"]},
        "batch": {"max_records": 32, "max_delay_seconds": 1.0},
        "max_concurrency": 1,
        "video": {"sample": "count", "count": 5},
    }
    cat, data = (DATA / "photos" / "cat.jpg").read_bytes(), clip.read_bytes()
    with Scene(stack, names("s"), tmp_path, routes=[route]) as scene:
        scene.worker()
        sent = scene.send_events(event(video(data)) if index % 4 == 0 else event(image(cat)) for index in range(80))
        found = scene.settle(sent)
    answers = [found[record.position] for record in sent]
    assert not any(answer.dead for answer in answers)
    sizes = {output(answer)["batch_size"] for answer in answers}
    assert max(sizes) > 20
    assert max(sizes) <= 32
    for answer in answers[::4]:
        assert len(output(answer)["tensors"][0]["tensor"]["data"]) == 5 * 8


def test_killed_worker_leaves_no_decoder_behind_and_its_videos_are_done_again(
    stack: Endpoints, tmp_path: Path, clip: Path, names: Callable[[str], str]
) -> None:
    route = {
        "name": "scenes",
        "model": "image_jpeg",
        "batch": {"max_records": 64},
        "video": {"sample": "scene", "timeout_seconds": 5},
    }
    with Scene(stack, names("s"), tmp_path, routes=[route]) as scene:
        worker = scene.worker()
        sent = scene.send_events([event(video(slow())), event(video(clip.read_bytes()))])
        wait_until(lambda: decoders_of(worker), 30, "a decoder")
        decoders = decoders_of(worker)
        worker.kill()
        wait_until(lambda: not any(each.is_running() for each in decoders), 5, "the decoders to end")
        worker.start()
        found = scene.settle(sent)
    slow_answer, clip_answer = (found[record.position] for record in sent)
    assert slow_answer.content["code"] == "VIDEO_TOO_SLOW"
    assert [each["start_seconds"] for each in output(clip_answer)["segments"]] == [0, 2, 4]


def decoders_of(worker: WorkerProcess) -> list[psutil.Process]:
    """The processes in which a worker decodes videos."""
    return [
        child for child in psutil.Process(worker.pid).children() if "headrace.connectors.video.child" in child.cmdline()
    ]
