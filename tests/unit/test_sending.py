"""The course of ``headrace send`` on a fake producer: what is sent, what is said, what is raised."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.connectors.kafka.producer import DeliveryReport, EventSender, EventTooLargeError
from headrace.pipeline.cli.sending import Sending, Wishes
from headrace.pipeline.compose import EventOptions
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.event_sources import Input, items_of
from headrace.pipeline.exit_codes import ExitCode

JPEG = b"\xff\xd8\xff\xe0 rest of it"
MOST_BYTES = 1_000


class FakeSender:
    """Confirms each record at the next poll."""

    def __init__(self) -> None:
        self.sent = 0
        self._to_confirm: list[Callable[[], None]] = []

    def check_size(self, topic: str, value: bytes, **_: Any) -> None:
        if len(value) > MOST_BYTES:
            raise EventTooLargeError(f"the event takes {len(value)} bytes")

    def send(self, topic: str, value: bytes, *, on_delivery: Callable[[DeliveryReport], None], **_: Any) -> None:
        report = DeliveryReport(topic, 0, self.sent, 5)
        self.sent += 1
        self._to_confirm.append(lambda: on_delivery(report))

    def poll(self, seconds: float = 0.0) -> None:
        while self._to_confirm:
            self._to_confirm.pop(0)()


def send(
    *arguments: str,
    sender: FakeSender,
    skip_bad: bool = False,
    stdin: bytes = b"",
    headers: dict[str, bytes] | None = None,
) -> ExitCode:
    options = EventOptions(headers=tuple((headers or {}).items()))
    given = Input(items_of(arguments, as_text=False), options, io.BytesIO(stdin), 100_000, lambda: 5)
    wishes = Wishes("requests", together=False, rate=None, repeat=1, skip_bad=skip_bad, as_json=False)
    return Sending(cast("EventSender", sender), 1, given, wishes, None).run()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three is larger than an event may be."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, data in (("a.jpg", JPEG), ("b.jpg", JPEG + bytes(MOST_BYTES)), ("c.jpg", JPEG)):
        (Path("photos") / name).write_bytes(data)


def test_header_that_a_worker_would_refuse_is_wrong_input() -> None:
    sender = FakeSender()
    with pytest.raises(ConfigError, match=r"^header deadline b'tomorrow' is not milliseconds") as caught:
        send("words", sender=sender, headers={"deadline": b"tomorrow"})
    assert caught.value.exit_code == ExitCode.WRONG_INPUT
    assert sender.sent == 0


def test_file_that_is_too_large_among_several_is_named_before_any_is_sent(photos: None) -> None:
    sender = FakeSender()
    with pytest.raises(ConfigError, match=r"^photos/b\.jpg: the event takes "):
        send("photos/a.jpg", "photos/b.jpg", sender=sender)
    assert sender.sent == 0


def test_file_that_is_too_large_in_a_folder_stops_there(photos: None, capsys: pytest.CaptureFixture[str]) -> None:
    sender = FakeSender()
    with pytest.raises(ConfigError, match=r"^photos/b\.jpg: the event takes .*; nothing after it was sent: ") as caught:
        send("photos", sender=sender)
    assert caught.value.exit_code == ExitCode.WRONG_INPUT
    assert sender.sent == 1
    assert capsys.readouterr().err.startswith("sent 1 event ")


def test_what_is_left_out_is_told_and_ends_with_failed(photos: None, capsys: pytest.CaptureFixture[str]) -> None:
    sender = FakeSender()
    assert send("photos", sender=sender, skip_bad=True) == ExitCode.FAILED
    assert sender.sent == 2
    assert "left out: photos/b.jpg: the event takes " in capsys.readouterr().err


def test_line_that_a_worker_would_refuse_says_its_number() -> None:
    lines = b'{"text": "a"}\n{"text": "b", "parameters": {"n": 99999999999999999999}}\n'
    with pytest.raises(ConfigError, match=r"^line 2: a value does not fit "):
        send("-", sender=FakeSender(), stdin=lines)
