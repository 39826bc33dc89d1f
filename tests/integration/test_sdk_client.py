"""Request and reply through the SDK, with a real worker."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from headrace import (
    ClosedError,
    ConfigError,
    DeadLetteredError,
    EventTooLargeError,
    FatalError,
    InferenceClient,
    InferenceResult,
    InferenceTimeoutError,
    InvalidEventError,
    ResultConsumer,
    Settings,
    audio,
    image,
    tensor,
    text,
    to_array,
    video,
)
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.setup import topic_specs
from tests.integration.harness import Scene, wait_until
from tests.integration.sdk_scene import photo, sdk_settings, speech

CATS = ("tabby", "Egyptian cat", "tiger cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sdk")


@pytest.fixture(scope="module")
def scene(stack: Endpoints, folder: Path) -> Iterator[Scene]:
    with Scene(stack, f"sdk-client.{uuid.uuid4().hex[:8]}", folder) as scene:
        scene.worker()
        yield scene


@pytest.fixture(scope="module")
def settings(scene: Scene, folder: Path, stack: Endpoints) -> Settings:
    return sdk_settings(folder, stack)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[InferenceClient]:
    with InferenceClient(settings) as client:
        yield client


@pytest.fixture
def lonely(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Settings:
    """Topics that no worker reads."""
    with Scene(stack, names("w"), tmp_path):
        settings = sdk_settings(tmp_path, stack)
    ensure_topics(stack.bootstrap_servers, topic_specs(settings))
    return settings


def numbers(result: InferenceResult, part: int = 0) -> list[float]:
    (named,) = result.outputs[part].tensors
    found: list[float] = to_array(named.tensor).tolist()
    return found


def test_every_modality_comes_back_from_its_model(client: InferenceClient) -> None:
    embedded = client.infer("a river turns the mill")
    assert to_array(embedded.outputs[0].tensors[0].tensor).shape == (384,)
    shown = client.infer(image(photo("cat.jpg")))
    assert shown.outputs[0].labels[0].name in CATS
    assert client.infer(photo("clock.png")).outputs[0].labels
    assert client.infer(audio(speech("mill.wav"))).outputs[0].segments
    assert numbers(client.infer(np.array([1.5, 2.5], "f4"))) == [1.5, 2.5]
    assert numbers(client.infer(tensor([7, 8], datatype="FP32"), model="delay")) == [7, 8]


def test_video_comes_back_with_what_it_shows(client: InferenceClient, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    writer = cv2.VideoWriter(f"{clip}.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 5, (320, 240))
    pixels = cv2.imread(str(photo("cat.jpg")))
    assert pixels is not None
    for _ in range(10):
        writer.write(cv2.resize(pixels, (320, 240)))
    writer.release()
    result = client.infer(video(Path(f"{clip}.mp4")))
    assert result.outputs[0].part == "video"
    assert result.outputs[0].labels[0].name in CATS


def test_parts_of_one_event_come_back_together(client: InferenceClient) -> None:
    result = client.infer(text("a cat"), photo("cat.jpg"), np.array([4, 5], "f4"), np.array([6], "f4"))
    assert [output.part for output in result.outputs] == ["text", "image", "tensor", "tensor-2"]
    assert (numbers(result, 2), numbers(result, 3)) == ([4, 5], [6])


def test_result_is_that_which_a_consumer_reads(client: InferenceClient, settings: Settings) -> None:
    with ResultConsumer(settings, start="end") as consumer:
        answered = {result.request_id: result for result in (client.infer(f"sentence {n}", key="k") for n in range(5))}
        read = [next(iter(consumer)) for _ in answered]
    assert {each.result.request_id: each.result for each in read} == answered
    assert {each.position.partition for each in read} == {client.reply_partition}
    assert {each.key for each in read} == {b"k"}


def test_two_hundred_calls_at_once_have_each_its_own_answer(client: InferenceClient) -> None:
    with ThreadPoolExecutor(32) as pool:
        asked = {number: pool.submit(client.infer, np.array([number], "f4")) for number in range(200)}
        answered = {number: numbers(future.result()) for number, future in asked.items()}
    assert answered == {number: [number] for number in range(200)}
    assert client.in_flight == 0


async def test_tasks_share_a_client_with_threads(settings: Settings) -> None:
    async with InferenceClient(settings) as client:
        by_tasks = asyncio.gather(*(client.infer_async(np.array([n], "f4")) for n in range(100)))
        by_future = [client.submit(np.array([n], "f4")) for n in range(100, 150)]
        assert [numbers(result) for result in await by_tasks] == [[n] for n in range(100)]
        others = await asyncio.gather(*map(asyncio.wrap_future, by_future))
        assert [numbers(result) for result in others] == [[n] for n in range(100, 150)]


def test_two_clients_on_one_partition_do_not_take_each_others_answers(settings: Settings) -> None:
    with InferenceClient(settings, reply_partition=2) as one, InferenceClient(settings, reply_partition=2) as other:
        asked = [(n, (one, other)[n % 2].submit(np.array([n], "f4"))) for n in range(60)]
        assert [(n, numbers(future.result())) for n, future in asked] == [(n, [n]) for n in range(60)]
        assert (one.late_replies, other.late_replies) == (0, 0)


def test_request_that_becomes_a_dead_letter_says_why(client: InferenceClient) -> None:
    began = time.monotonic()
    with pytest.raises(DeadLetteredError, match="no route serves model 'nope'") as caught:
        client.infer("words", model="nope", key="mine")
    assert (caught.value.stage, caught.value.code) == ("route", "UNKNOWN_MODEL")
    assert caught.value.letter.key == b"mine"
    assert caught.value.letter.provenance.topic == client.topic
    assert time.monotonic() - began < 10
    with pytest.raises(DeadLetteredError, match="BAD_IMAGE"):
        client.infer(image(b"\xff\xd8\xff no photo"))


async def test_request_that_becomes_a_dead_letter_says_why_to_a_task(client: InferenceClient) -> None:
    with pytest.raises(DeadLetteredError, match="UNKNOWN_MODEL"):
        await client.infer_async("words", model="nope")


def test_without_a_worker_the_time_out_says_what_to_check(lonely: Settings) -> None:
    with InferenceClient(lonely) as client:
        began = time.monotonic()
        with pytest.raises(InferenceTimeoutError) as caught:
            client.infer("words", timeout_seconds=1.0)
        assert 0.9 < time.monotonic() - began < 3
    message = str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    for told in (
        f"{client.topic}:",
        f"{client.reply_topic}:{client.reply_partition}",
        "headrace status",
        "reply_topic",
    ):
        assert told in message


def test_reply_that_comes_too_late_is_dropped_and_counted(client: InferenceClient) -> None:
    before = client.late_replies
    with pytest.raises(InferenceTimeoutError):
        client.infer(np.array([1], "f4"), model="delay", parameters={"delay_ms": 1500.0}, timeout_seconds=0.5)
    assert numbers(client.infer(np.array([2], "f4"))) == [2]
    wait_until(lambda: client.late_replies == before + 1, 15, "the late reply")


def test_cancelled_call_is_given_up(client: InferenceClient) -> None:
    before = client.late_replies
    future = client.submit(np.array([1], "f4"), model="delay", parameters={"delay_ms": 500.0})
    assert future.cancel()
    assert client.in_flight == 0
    wait_until(lambda: client.late_replies == before + 1, 15, "the answer that nobody waits for")


async def test_cancelled_task_gives_its_call_up(client: InferenceClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.infer_async(np.array([1], "f4"), model="delay", parameters={"delay_ms": 1000.0})
    assert client.in_flight == 0


def test_close_fails_what_is_in_flight_and_what_comes_later(lonely: Settings) -> None:
    client = InferenceClient(lonely)
    pending = [client.submit(f"sentence {n}") for n in range(3)]
    threading.Timer(0.2, client.close).start()
    for future in pending:
        with pytest.raises(ClosedError, match="client was closed"):
            future.result(10)
    client.close()
    with pytest.raises(ClosedError):
        client.infer("words")


def test_reply_topic_that_is_deleted_fails_all_calls(lonely: Settings) -> None:
    """The Kafka client hides for half a minute, by default, that a topic is gone: here for less."""
    with InferenceClient(lonely, client={"topic.metadata.propagation.max.ms": 2000}) as client:
        pending: list[Future[InferenceResult]] = [client.submit("words", timeout_seconds=60) for _ in range(3)]
        admin = AdminClient({"bootstrap.servers": lonely.kafka.bootstrap_servers})
        admin.delete_topics([client.reply_topic])[client.reply_topic].result(10)
        for future in pending:
            with pytest.raises(FatalError, match=f"{client.reply_topic} does not exist"):
                future.result(60)
        with pytest.raises(FatalError, match="does not exist"):
            client.infer("words")


def test_wrong_places_are_told_at_once(settings: Settings, names: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"reply_partition is 99.* has partitions 0 to 3"):
        InferenceClient(settings, reply_partition=99)
    with pytest.raises(FatalError, match="does not exist"):
        InferenceClient(settings, reply_topic=names("missing"))
    with pytest.raises(ConfigError, match="dead-letter topic"):
        InferenceClient(settings, reply_topic=settings.topics.dead_letters)


def test_event_that_cannot_be_sent_leaves_no_call_behind(client: InferenceClient) -> None:
    with pytest.raises(InvalidEventError, match="no parts"):
        client.infer()
    with pytest.raises(InvalidEventError, match="timeout_seconds is nan"):
        client.infer("words", timeout_seconds=float("nan"))
    with pytest.raises(EventTooLargeError, match=r"topics\.max_message_bytes"):
        client.infer("x" * 9_000_000)
    assert client.in_flight == 0
