"""Looks after the workers of a run: the one that is killed has to come back, and no other may end before it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from headrace.connectors.embedded.state import Member
from headrace.pipeline.errors import StackError

KILLED = 137
"""Exit status after a SIGKILL."""


class Supervised(Protocol):
    """What is asked of ``Workers``."""

    def members(self) -> tuple[Member, ...]: ...

    def stop(self) -> Mapping[int, int]: ...


class WorkerWatch:
    """Tells the killed worker's one restart from workers that ended by themselves.

    Args:
        workers: all of them running.
        is_ready: asks a worker whether it can take records.
    """

    def __init__(self, workers: Supervised, is_ready: Callable[[Member], bool]) -> None:
        self.crashes = 0
        """Workers that ended unasked, or did not end as told, or did not come back."""
        self._workers = workers
        self._is_ready = is_ready
        self._pids = {member.name: member.pid for member in workers.members()}
        self._killed = ""
        self._replaced = False
        self._back = False

    def killed(self, member_name: str) -> None:
        """A worker was killed on purpose; it is expected to be started again, once."""
        self._killed = member_name

    def look(self) -> list[str]:
        """What happened to the workers since the last look, in words.

        Raises:
            StackError: if one ended in a way that a restart cannot mend.
        """
        notes = []
        for member in self._workers.members():
            if member.state == "failed":
                raise StackError(f"{member.name} ended and a restart would not help: see {member.log}")
            if member.pid == self._pids[member.name]:
                continue
            self._pids[member.name] = member.pid
            if member.name == self._killed and not self._replaced:
                self._replaced = True
                notes.append(f"{member.name} is started again (pid {member.pid}), in the same slot")
            else:
                self.crashes += 1
                notes.append(f"{member.name} ended by itself and is started again")
        return notes

    def all_back(self) -> bool:
        """Whether the killed worker is ready again; true if none was killed."""
        if self._replaced and not self._back:
            self._back = any(
                self._is_ready(member) for member in self._workers.members() if member.name == self._killed
            )
        return self._back or not self._killed

    def stop(self) -> list[str]:
        """Stop them all. Each has to be running until now, and to end as it is told; what is otherwise, in words."""
        back = self.all_back()
        ended = {member.name for member in self._workers.members() if member.state != "running"}
        faults = []
        for slot, code in sorted(self._workers.stop().items()):
            name = f"worker {slot}"
            if name == self._killed and not back:
                faults.append(f"{name} was killed, and did not get ready again")
            elif name in ended:
                faults.append(f"{name} ended by itself (exit status {code})")
            elif code:
                how = "had to be killed" if code == KILLED else f"failed (exit status {code})"
                faults.append(f"{name} was told to end, and {how}")
        self.crashes += len(faults)
        return faults
