"""Runs one server and never lets it outlive its owner. Stand-alone: standard library only, imported by nothing.

Usage: ``python -I -S guard.py OWNER_PID REPORT_FD CLEAN_PREFIX -- COMMAND...``

The guard is a small process between owner and server. It ends the server's whole process group when the owner dies in
whatever way (a pidfd tells), when it is told to (SIGTERM: politely; SIGUSR1: SIGKILL), or when the server itself ends
and leaves children behind; then it removes the files that start with CLEAN_PREFIX (shared memory of a killed Triton).
If the guard itself is killed, the kernel kills the server (PR_SET_PDEATHSIG). It writes the server's pid, or why it
could not be run, to REPORT_FD, and ends with the server's exit status.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GROUP_GONE_SECONDS = 5.0
"""How long the processes of a SIGKILLed group may take to vanish before the guard gives up on them."""


def main(arguments: list[str]) -> int:
    owner_pid, report_fd, clean_prefix = int(arguments[0]), int(arguments[1]), arguments[2]
    command = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphaned grandchildren become ours, so that we can wait for them
    wakeup, notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(notify)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # seen through the wakeup descriptor; SIGINT is the owner's to answer
    owner = os.pidfd_open(owner_pid)
    if os.getppid() != owner_pid:
        return 1  # the owner died before we could watch it

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        # preexec_fn is safe here: this process has one thread
        server = subprocess.Popen(command, process_group=0, preexec_fn=before_exec)  # noqa: PLW1509
    except OSError as error:
        os.write(report_fd, f"{error}\n".encode())
        return 127
    os.write(report_fd, f"{server.pid}\n".encode())
    os.close(report_fd)
    try:
        watch(server, owner, wakeup)
    finally:
        end_group(server)
        if clean_prefix:
            clean(Path(clean_prefix))
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def watch(server: "subprocess.Popen[bytes]", owner: int, wakeup: int) -> None:
    """Returns when the server has ended or has to."""
    while server.poll() is None:
        readable, _, _ = select.select([owner, wakeup], [], [])
        if owner in readable:
            return
        for number in os.read(wakeup, 64):
            if number == signal.SIGUSR1:
                return
            if number == signal.SIGTERM:
                server.terminate()


def end_group(server: "subprocess.Popen[bytes]") -> None:
    """SIGKILL what is left of the server's process group and wait until it is gone."""
    deadline = time.monotonic() + GROUP_GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        server.poll()
        with contextlib.suppress(ChildProcessError):
            if server.returncode is not None:
                os.waitpid(-server.pid, os.WNOHANG)
        time.sleep(0.005)
    server.wait(GROUP_GONE_SECONDS)


def clean(prefix: Path) -> None:
    """Remove the files whose path starts with ``prefix``."""
    for path in prefix.parent.glob(f"{prefix.name}*"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
