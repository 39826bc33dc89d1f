"""What the system refuses is not the video's fault: it is waited for."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from typing import NoReturn, cast

import pytest

from headrace.connectors.video.decoder import Decoder
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.inference import plan_of


def refuse(*_: object) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_process_without_a_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(UnavailableError, match=r"no process to decode videos can be started: .*Too many open files"):
        await Decoder.start()


async def test_video_that_cannot_be_handed_over_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        decoder = Decoder(cast("subprocess.Popen[bytes]", None), ours)
        monkeypatch.setattr(os, "memfd_create", refuse)
        with pytest.raises(
            UnavailableError, match=r"no file in memory can be opened for a video: .*Too many open files"
        ):
            await decoder.sample(b"video", plan_of(VideoSettings(), 64))
