"""What a run of the demo leaves behind, with a stack that is played."""

from __future__ import annotations

import contextlib
import io
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import owner_tag, temporary_folder
from headrace.pipeline.demo import run as demo
from headrace.pipeline.demo.interrupts import Interrupts
from headrace.pipeline.demo.run import LOGS, Options
from headrace.pipeline.errors import ConfigError, StackError


def nothing() -> None:
    pass


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class FakeStack:
    """Writes a log, does what a test says, and does not start."""

    on_start: Callable[[], None] = staticmethod(nothing)
    on_end: Callable[[], None] = staticmethod(nothing)
    made: list[Path] = []  # noqa: RUF012 # a new list for each test, see the fixture

    def __init__(self, data_dir: Path) -> None:
        self.made.append(data_dir)

    def start(self) -> None:
        log = self.made[0] / "kafka" / "kafka.log"
        log.parent.mkdir(parents=True)
        log.write_text("no disk\n")
        self.on_start()
        raise StackError(f"Kafka was not ready; log {log} ends with: no disk")

    def kill(self) -> None:
        self.on_end()

    stop = kill


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeStack]:
    class Stack(FakeStack):
        made: list[Path] = []  # noqa: RUF012 # as above

    monkeypatch.setattr(demo, "Stack", Stack)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Stack


class Output(Console):
    def __init__(self) -> None:
        self.kept = io.StringIO()
        super().__init__(file=self.kept, width=120)

    @property
    def lines(self) -> list[str]:
        return self.kept.getvalue().splitlines()


def leftovers() -> list[Path]:
    return [*Path(tempfile.gettempdir()).glob(f"headrace-{owner_tag()}-*")]


@pytest.mark.usefixtures("stack")
def test_failed_start_keeps_its_logs_and_nothing_else() -> None:
    output = Output()
    with pytest.raises(StackError, match=r"Kafka was not ready; log build/demo-logs/kafka/kafka\.log ends with"):
        demo.run(Options(), output)
    assert (LOGS / "kafka" / "kafka.log").read_text() == "no disk\n"
    assert output.lines[-1] == "logs of servers and workers are kept in build/demo-logs/"
    assert leftovers() == []


@pytest.mark.usefixtures("stack")
def test_saved_logs_are_those_of_this_run() -> None:
    LOGS.mkdir(parents=True)
    (LOGS / "worker-0.log").write_text("of an earlier run")
    with pytest.raises(StackError):
        demo.run(Options(), Output())
    assert [path.name for path in LOGS.iterdir()] == ["kafka"]


@pytest.mark.usefixtures("stack")
def test_logs_that_cannot_be_saved_do_not_hide_why_the_demo_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setattr(demo, "LOGS", Path("file/demo-logs"))
    output = Output()
    with pytest.raises(StackError, match="Kafka was not ready"):
        demo.run(Options(), output)
    assert "logs could not be kept in file/demo-logs/" in output.lines[-1]


def test_second_interrupt_does_not_disturb_the_cleaning_up(stack: type[FakeStack]) -> None:
    stack.on_start = stack.on_end = staticmethod(interrupt)
    output = Output()
    with pytest.raises(KeyboardInterrupt):
        demo.run(Options(), output)
    assert output.lines[-1] == "interrupted: everything is stopped and removed"
    assert leftovers() == []


def test_interrupt_during_the_cleaning_up_does_not_disturb_it(stack: type[FakeStack]) -> None:
    stack.on_end = staticmethod(interrupt)
    with pytest.raises(StackError):  # it says more than that somebody lost patience
        demo.run(Options(), Output())
    assert leftovers() == []


def test_interrupt_while_the_folder_is_made_does_not_leave_it(
    stack: type[FakeStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(purpose: str) -> Path:
        folder = temporary_folder(purpose)
        interrupt()
        return folder

    monkeypatch.setattr(demo, "temporary_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run(Options(), Output())
    assert leftovers() == []
    assert not (stack.made[0] / "kafka").exists()  # not started at all


def test_interrupt_with_keep_says_where_the_data_is(stack: type[FakeStack]) -> None:
    stack.on_start = staticmethod(interrupt)
    output = Output()
    with pytest.raises(KeyboardInterrupt):
        demo.run(Options(keep=Path("build/demo-data")), output)
    assert output.lines[-1] == "interrupted: everything is stopped; data and logs are in build/demo-data/"
    assert (Path("build/demo-data") / "kafka" / "kafka.log").exists()


@pytest.mark.parametrize("options", [Options(json_path=Path("file/demo.json")), Options(keep=Path("file/data"))])
def test_place_that_cannot_be_written_is_refused_before_anything_starts(
    stack: type[FakeStack], options: Options
) -> None:
    Path("file").touch()
    with pytest.raises(ConfigError, match="folder of your own"):
        demo.run(options, Output())
    assert stack.made == []
    assert leftovers() == []


@pytest.mark.usefixtures("stack")
def test_figures_of_an_earlier_run_stay_and_no_empty_ones_appear() -> None:
    for before in (None, "{}"):
        if before:
            Path("build/demo.json").write_text(before)
        with pytest.raises(StackError):
            demo.run(Options(), Output())
        assert Path("build/demo.json").exists() == bool(before)
    assert Path("build/demo.json").read_text() == "{}"


@pytest.mark.usefixtures("stack")
def test_kept_data_of_a_running_demo_is_left_alone() -> None:
    data = Path("build/demo-data")
    data.mkdir(parents=True)
    (data / "precious").touch()
    with (
        file_lock(Path("build/demo-data.lock"), 1.0, "test"),
        pytest.raises(StackError, match=r"build/demo-data\.lock"),
    ):
        demo.run(Options(keep=data), Output())
    assert (data / "precious").exists()


def test_kept_data_of_an_earlier_run_is_replaced_under_the_lock(stack: type[FakeStack]) -> None:
    data = Path("build/demo-data")
    data.mkdir(parents=True)
    (data / "old").touch()
    held: list[str] = []

    def locked() -> None:
        with pytest.raises(StackError) as caught, file_lock(Path("build/demo-data.lock"), 0.0, "test"):
            pass
        held.append(str(caught.value))

    stack.on_start = stack.on_end = staticmethod(locked)
    with pytest.raises(StackError, match=r"log /.*/build/demo-data/kafka/kafka\.log ends"):
        demo.run(Options(keep=data), Output())
    assert len(held) == 2
    assert not (data / "old").exists()
    assert (data / "kafka" / "kafka.log").exists()
    with file_lock(Path("build/demo-data.lock"), 0.0, "test"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_ending_signal_interrupts_where_it_may(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    told: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Interrupts(lambda: told.append("interrupted")) as interrupts,
        interrupts.allowed(),
    ):
        signal.raise_signal(number)
    assert told == ["interrupted"]
    assert signal.getsignal(number) is before


def test_signal_outside_is_kept_until_it_may_interrupt_or_all_is_done() -> None:
    told: list[str] = []
    reached: list[str] = []

    def work(*, interruptible: bool) -> None:
        with Interrupts(lambda: told.append("interrupted")) as interrupts:
            interrupt()
            reached.append("made")
            with interrupts.allowed() if interruptible else contextlib.nullcontext():
                reached.append("done")

    with pytest.raises(KeyboardInterrupt):
        work(interruptible=True)
    assert (told, reached) == (["interrupted"], ["made"])
    with pytest.raises(KeyboardInterrupt):
        work(interruptible=False)
    assert (told, reached) == (["interrupted"] * 2, ["made", "made", "done"])


def test_second_signal_does_not_interrupt_what_the_first_makes_end() -> None:
    undone: list[str] = []

    def work() -> None:
        with Interrupts(nothing) as interrupts, interrupts.allowed():
            try:
                interrupt()
            finally:
                interrupt()
                undone.append("undone")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert undone == ["undone"]


def test_run_without_a_signal_is_not_interrupted() -> None:
    told: list[str] = []
    with Interrupts(lambda: told.append("interrupted")) as interrupts, interrupts.allowed():
        pass
    assert told == []
