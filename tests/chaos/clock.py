"""A wall clock that jumps while a process runs: the library libfaketime, preloaded from the package of that name.

That library is under the GPL, version 2: it is a tool of these tests, and no part of what headrace ships.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import files
from pathlib import Path
from types import TracebackType

from headrace.connectors.embedded.owners import SHARED_MEMORY

SEEN_SECONDS = 1.0
"""How long a process may take to see a jump: it looks once in every second, which costs it next to nothing."""

_LIBRARY = "libfaketime.so.1"
_LEFTOVER = re.compile(r"(?:sem\.)?faketime_(?:sem|shm)_(\d+)")


class JumpingClock:
    """Processes started with ``environment`` see the real time plus an offset that can be changed while they run.

    Moved is CLOCK_REALTIME (``time.time``, ``datetime.now``), not CLOCK_MONOTONIC (``time.monotonic``). Unlike a clock
    that is really set, it lets waits that have begun end when they would have, and librdkafka stamps its records with
    the real time. Child processes are moved as well.

    Args:
        folder: for the library and the file that holds the offset; made if missing.

    Raises:
        FileNotFoundError: if libfaketime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "clock"
        self._library = folder / _LIBRARY
        self._library.write_bytes(_without_gettimeofday(_packaged_library().read_bytes()))
        self._offset_seconds = 0.0
        self.jump(0)

    @property
    def offset_seconds(self) -> float:
        """The sum of all jumps."""
        return self._offset_seconds

    @property
    def environment(self) -> Mapping[str, str]:
        """To be added to a process's environment."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "0",  # whole seconds: the file is read with the first look in each second
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: float) -> None:
        """Move the wall clock forwards, or backwards if negative; seen by all processes within ``SEEN_SECONDS``."""
        self._offset_seconds += seconds
        scratch = self._file.with_suffix(".new")
        scratch.write_text(f"{self._offset_seconds:+.3f}\n")
        scratch.replace(self._file)  # never half a file

    def close(self) -> None:
        """Remove what killed processes left in shared memory. Call it when they are gone."""
        for path in SHARED_MEMORY.iterdir():
            found = _LEFTOVER.fullmatch(path.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                path.unlink(missing_ok=True)

    def __enter__(self) -> JumpingClock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _packaged_library() -> Path:
    for file in files("libfaketime") or []:
        if file.name == _LIBRARY:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package libfaketime has no {_LIBRARY}")


def _without_gettimeofday(library: bytes) -> bytes:
    """The library with that function under a name that nobody calls: the C library's is found instead.

    librdkafka waits with ``cnd_timedwait`` until a time reckoned from ``gettimeofday``. libfaketime moves the latter
    and knows nothing of the former: after a jump by two hours every wait lasted two hours.
    """
    name = b"gettimeofday\0"
    where = library.index(name)  # the first of several is in the table of symbols
    return library[:where] + b"gettimeofxxx\0" + library[where + len(name) :]
