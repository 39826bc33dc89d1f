"""The decoding process: ``python -m headrace.connectors.video.child SOCKET_FD PARENT_PID``.

It answers one request after the other until its parent is gone. What a video can make it do is bounded: memory by its
address space, time by its CPU time and its parent's clock, files by their number and size.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from headrace.connectors.video import messages
from headrace.pipeline.limits import MAX_DECODER_BYTES
from headrace.pipeline.ports import SamplingPlan

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
OPEN_FILES = 24
"""What the process has open, what a video needs, and a few to spare."""
SPARE_CPU_SECONDS = 2
"""On top of the time that sampling may take: the clock should speak first, for it says why."""


def main(arguments: list[str]) -> int:
    connection = socket.socket(fileno=int(arguments[0]))
    die_with_parent(int(arguments[1]), connection)
    try:
        import headrace.connectors.video.frames  # noqa: F401 - the large libraries: before memory is bounded
    except Exception as error:
        connection.sendall(messages.refusal(messages.FAILED, f"{type(error).__name__}: {error}"))
        raise
    confine()
    connection.sendall(messages.refusal(messages.READY, ""))
    with contextlib.suppress(EOFError):
        while True:
            plan, video = receive(connection)
            limit_cpu(plan.timeout_seconds)
            try:
                answer = answer_to(plan, video)
            finally:
                os.close(video)
            for piece in answer:
                connection.sendall(piece)
    return 0


def die_with_parent(parent_pid: int, connection: socket.socket) -> None:
    """End when the parent does, whatever this process is doing then.

    The kernel sees to it, and a thread that watches the socket: the parent may be another process than the one whose
    thread started this one, and the kernel's signal comes when that thread ends.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)  # it died before the kernel was asked

    def watch() -> None:
        hang_up = select.poll()
        hang_up.register(connection, select.POLLRDHUP)
        hang_up.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def confine() -> None:
    """Bound what this process can take from now on."""
    import cv2

    cv2.setNumThreads(1)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes, not the worker
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)  # a video must not be able to fill the worker's log
    os.close(quiet)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most_bytes = pages * resource.getpagesize() + MAX_DECODER_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """How much more CPU time this process may take: past that it is killed."""
    limit = math.ceil(time.process_time() + seconds) + SPARE_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def receive(connection: socket.socket) -> tuple[SamplingPlan, int]:
    """The next plan, and the video as an open file. Raises EOFError when there is none to come."""
    start, files, _, _ = socket.recv_fds(connection, messages.LENGTH_BYTES, 1)
    start += exactly(connection, messages.LENGTH_BYTES - len(start)) if files else b""
    if not files:
        raise EOFError
    return messages.plan_of(exactly(connection, messages.length_of(start))), files[0]


def exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def answer_to(plan: SamplingPlan, video: int) -> list[bytes]:
    """The frames of a video, or why there are none."""
    from headrace.connectors.video import frames, mp4

    try:
        data = memoryview(mmap.mmap(video, 0, access=mmap.ACCESS_READ))
        track = mp4.inspect(data, plan.max_pixels, plan.max_duration_seconds)
        sampled = frames.sample(f"/proc/self/fd/{video}", track, plan)
    except mp4.VideoError as error:
        return [messages.refusal(error.code, str(error))]
    except MemoryError:
        return [messages.refusal("VIDEO_TOO_LARGE", frames.OUT_OF_MEMORY)]
    images = [kept.image for kept in sampled.kept]
    seconds = [kept.seconds for kept in sampled.kept]
    return [messages.head([len(image) for image in images], seconds, sampled.end_seconds), *images]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
