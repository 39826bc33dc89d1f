"""Parts and events as a program builds them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import Event, InvalidEventError, Modality, Part, audio, event, image, tensor, text, video
from headrace.pipeline.headers import Delivery, delivery_of

JPEG = b"\xff\xd8\xff and so on"
PNG = b"\x89PNG\r\n\x1a\n and so on"
WAV = b"RIFF\0\0\0\0WAVEfmt "
MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"
WRONG: Any = 7
WRONG_PARAMETER: Any = [1]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def delivery(made: Event) -> Delivery:
    return delivery_of(made.headers)


def test_each_builder_makes_its_modality(tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(PNG)
    assert text("words", name="w") == Part("w", Modality.TEXT, "text/plain", "words")
    assert image(JPEG) == Part("image", Modality.IMAGE, "image/jpeg", JPEG)
    assert image(photo, name="p") == Part("p", Modality.IMAGE, "image/png", PNG)
    assert audio(bytearray(WAV)) == Part("audio", Modality.AUDIO, "audio/wav", WAV)
    assert audio(b"\1\2", content_type="audio/pcm") == Part("audio", Modality.AUDIO, "audio/pcm", b"\1\2")
    assert video(MP4) == Part("video", Modality.VIDEO, "video/mp4", MP4)
    assert tensor([1.0], name="t").modality is Modality.TENSOR


def test_plain_values_become_parts(tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    sound.write_bytes(WAV)
    made = event("words", JPEG, sound, MP4, np.zeros(2, "f4"), text("more"), "again", tensor([1]))
    assert [(part.name, part.modality) for part in made.request.parts] == [
        ("text", Modality.TEXT),
        ("image", Modality.IMAGE),
        ("audio", Modality.AUDIO),
        ("video", Modality.VIDEO),
        ("tensor", Modality.TENSOR),
        ("text-2", Modality.TEXT),
        ("text-3", Modality.TEXT),
        ("tensor-2", Modality.TENSOR),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image(WAV), r"the content is audio/wav, no image: check it, or say content_type="),
        (lambda: audio(b"noise"), "no audio of a known kind"),
        (lambda: video(JPEG), "image/jpeg, no video"),
        (lambda: image(WRONG), "of type int: give bytes or a Path"),
        (lambda: text(WRONG), "text is a str, this is of type int"),
        (lambda: event(b"noise"), "of no known kind"),
        (lambda: event(WRONG), "a value of type int is no part"),
        (event, "no parts"),
        (lambda: event(text("a", name="")), "empty name"),
        (lambda: event(text("a", name="x"), text("b", name="x"), text("c", name="x-2")), "the same name"),
        (lambda: event("\ud800"), "does not fit"),
        (lambda: event("a", type=""), "type is empty"),
        (lambda: event("a", type=WRONG), "does not fit"),
        (lambda: event("a", source="\ud800"), "does not fit"),
        (lambda: event("a", id="7"), "not a UUID"),
        (lambda: event("a", id=""), "not a UUID"),
        (lambda: event("a", key=WRONG), "key is text or bytes, not of type int"),
        (lambda: event("a", key="\ud800"), "key is not Unicode text"),
        (lambda: event("a", correlation_id="\ud800"), "correlation_id is not Unicode text"),
        (lambda: event("a", time_ms=10**18), "years 1 to 9999"),
        (lambda: event("a", model_version="1"), "without a model"),
        (lambda: event("a", deadline_seconds=float("inf")), "deadline_seconds is inf"),
        (lambda: event("a", priority=10), "header priority"),
        (lambda: event("a", priority=-1), "header priority"),
        (lambda: event("a", reply_topic="no topic"), "is no topic name"),
        (lambda: event("a", reply_partition=-1), "header reply_partition"),
        (lambda: event("a", correlation_id=b"x" * 1025), "more than 1024"),
        (lambda: event("a", traceparent="00-xyz"), "W3C trace context"),
        (lambda: event("a", parameters={"a": WRONG_PARAMETER}), "parameter a is of type list"),
        (lambda: event("a", parameters={"a": 2**63}), "beyond 64 bits"),
        (lambda: event("a", parameters={str(number): 1 for number in range(257)}), "257 parameters"),
        (lambda: event("a", headers={"reply_topic": "x"}), "header reply_topic is headrace's own"),
        (lambda: event("a", headers=[("ce_id", b"x")]), "header ce_id is headrace's own"),
        (lambda: event("a", headers={"hops": "x"}), "header hops is headrace's own"),
        (lambda: event("a", headers={"mine": WRONG}), "header 'mine' is text or bytes"),
        (lambda: event("a", headers={"\ud800": "x"}), "a header's name is not Unicode text"),
    ],
)
def test_what_no_worker_would_take_is_a_value_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert isinstance(caught.value, InvalidEventError)


def test_misspelt_option_is_a_type_error() -> None:
    """Python takes any name for a ``TypedDict``'s: a time-out, say, must not be dropped in silence."""
    misspelt: Any = {"timeout": 3}
    with pytest.raises(TypeError, match="unexpected keyword argument 'timeout'; EventOptions are type, source"):
        event("a", **misspelt)


def test_deadline_counts_from_before_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    photo = tmp_path / "photo"
    photo.write_bytes(PNG)

    def slowly(_: Path) -> bytes:
        nonlocal now
        now += 20
        return PNG

    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(Path, "read_bytes", slowly)
    assert delivery(event(photo, deadline_seconds=30)).deadline_ms == 1_000_030_000


def test_missing_file_is_told_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        event(tmp_path / "missing.jpg")


def test_event_says_all_that_it_is_told() -> None:
    own = uuid.uuid4()
    made = event(
        "words",
        type="t",
        source="s",
        subject="about",
        parameters={"a": 1, "b": 1.5, "c": "x", "d": True},
        model="m",
        model_version="3",
        session="talk",
        key="ключ",
        headers=[("mine", b"\xff"), ("mine", "two"), ("none", None)],
        id=own,
        time_ms=1000,
        priority=9,
        deadline_seconds=60,
        correlation_id="c",
        reply_topic="replies",
        reply_partition=3,
        traceparent=TRACE,
        tracestate="v=1",
    )
    request = made.request
    assert (made.id, request.type, request.source, request.time_ms) == (str(own), "t", "s", 1000)
    assert (request.subject, request.model, request.model_version, request.session) == ("about", "m", "3", "talk")
    assert request.parameters == {"a": 1, "b": 1.5, "c": "x", "d": True}
    assert made.key == "ключ".encode()
    assert made.headers[-3:] == (("mine", b"\xff"), ("mine", b"two"), ("none", None))
    asked = delivery(made)
    assert (asked.correlation_id, asked.reply_topic, asked.reply_partition, asked.priority) == (b"c", "replies", 3, 9)
    assert asked.deadline_ms is not None
    assert abs(asked.deadline_ms / 1000 - time.time() - 60) < 5
    assert asked.trace is not None
    assert (asked.trace.traceparent, asked.trace.state) == (TRACE.encode(), b"v=1")
    assert dict(made.headers)["ce_subject"] == b"about"


def test_event_that_is_told_nothing_has_sensible_defaults() -> None:
    one, other = event("a"), event("a")
    assert one.id != other.id
    assert (one.key, one.request.model, one.request.subject) == (None, None, None)
    assert abs(one.request.time_ms / 1000 - time.time()) < 5
    asked = delivery(one)
    assert (asked.deadline_ms, asked.reply_topic, asked.reply_partition, asked.correlation_id) == (None,) * 4
    assert asked.trace is not None
