"""The course of one ``headrace send``: events in, at their rate, outcomes out, and what is said when it breaks off."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import click

from headrace.connectors.kafka.producer import EventSender, EventTooLargeError
from headrace.connectors.kafka.reader import CommittedReader
from headrace.pipeline.awaiting import Awaited, Place, Settled
from headrace.pipeline.cli.deliveries import Delivered, Deliveries
from headrace.pipeline.cli.interrupts import HeldInterrupts
from headrace.pipeline.cli.send_view import NoBar, RichBar, View
from headrace.pipeline.compose import Event
from headrace.pipeline.errors import ConfigError, HeadraceError, PoisonError, UnavailableError
from headrace.pipeline.event_sources import Bad, Input, Skipped, count
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder
from headrace.pipeline.outgoing import record_of
from headrace.pipeline.pacing import Pace
from headrace.pipeline.records import Headers

LAST_WORDS_SECONDS = 5.0
"""How long to wait for what is on its way when sending is broken off."""
LOOK_SECONDS = 0.05
"""How often outcomes are looked for while sending."""
WAIT_SECONDS = 0.2
"""How long one look may wait: Ctrl-C waits as long."""
PLACES_SHOWN = 5


class NoOutcomeError(HeadraceError):
    """Sent, but neither a result nor a dead letter was seen in time."""

    exit_code = ExitCode.NO_OUTCOME


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to send. ``rate`` is events a second."""

    topic: str
    together: bool
    rate: float | None
    repeat: int
    skip_bad: bool
    as_json: bool


class Outcomes:
    """The outcomes of the events that are being sent, as they come.

    Args:
        reader: stands at the ends that the topics had before the first event.
        decoder: of its records.
        wait_seconds: how long to wait after the last event.
    """

    def __init__(self, reader: CommittedReader, decoder: OutcomeDecoder, wait_seconds: float) -> None:
        self._reader = reader
        self._decoder = decoder
        self._wait_seconds = wait_seconds
        self._looked_at = 0.0
        self._show: Callable[[Outcome, float], None] = lambda outcome, seconds: None
        self._held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self.awaited = Awaited()

    def tell(self, show: Callable[[Outcome, float], None], held: Callable[[], AbstractContextManager[None]]) -> None:
        """Call ``show`` with each outcome and the seconds since its event was sent; ``held`` is as in `Deliveries`."""
        self._show = show
        self._held = held

    def confirmed(self, record: Delivered) -> None:
        """An event is in Kafka: its outcome may have been read before that was known."""
        place = Place(record.report.topic, record.report.partition, record.report.offset)
        self._settle(self.awaited.sent(record.request_id, place, record.sent_at))

    def look(self, seconds: float = 0.0) -> None:
        """Show what has come, waiting at most this long for the first of it; without waiting, not too often."""
        now = time.monotonic()
        if not seconds and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        with self._held():
            records = self._reader.read(seconds)
        for outcome in self._decoder.decode(records):
            if isinstance(outcome, Outcome):  # else somebody else's record: not of these events
                self._settle(self.awaited.read(outcome))

    def wait(self) -> None:
        """Until every event has its outcome.

        Raises:
            NoOutcomeError: some are missing when the time is up.
        """
        deadline = time.monotonic() + self._wait_seconds
        while self.awaited:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoOutcomeError(self._missing())
            self.look(min(left, WAIT_SECONDS))

    def _settle(self, settled: Settled | None) -> None:
        if settled is not None:
            self._show(settled.outcome, time.monotonic() - settled.sent_at)

    def _missing(self) -> str:
        places = [f"{place.topic}:{place.partition}:{place.offset}" for place in self.awaited.open]
        more = f" and {len(places) - PLACES_SHOWN:,} more" if len(places) > PLACES_SHOWN else ""
        return (
            f"no outcome of {', '.join(places[:PLACES_SHOWN])}{more} within {self._wait_seconds:g} s: "
            "is a worker running? `headrace status` shows the stack's"
        )


class Sending:
    """Sends everything that was given, once."""

    def __init__(
        self, sender: EventSender, schema_id: int, given: Input, wishes: Wishes, outcomes: Outcomes | None
    ) -> None:
        self._sender = sender
        self._schema_id = schema_id
        self._given = given
        self._wishes = wishes
        self._outcomes = outcomes
        # words and files that are named one by one are few: they are looked at before any is sent, and told one by one
        self._one_by_one = (given.one_by_one or wishes.together) and wishes.repeat == 1
        alone = self._one_by_one and (len(given.items) == 1 or wishes.together)
        self._alone = alone
        shows_bar = sys.stderr.isatty() and not wishes.as_json and (not self._one_by_one or wishes.rate is not None)
        total = self._count() if shows_bar else None
        self._view = View(
            wishes.topic,
            as_json=wishes.as_json,
            positions=self._one_by_one,
            bar=RichBar(total) if shows_bar and not alone else NoBar(),
            total=total,
        )
        self._interrupts = HeldInterrupts()
        self._deliveries = Deliveries(
            sender, wishes.topic, self._confirmed, self._view.delivered, self._interrupts.held
        )
        if outcomes is not None:
            outcomes.tell(self._view.settled, self._interrupts.held)

    def run(self) -> ExitCode:
        """Send, and wait for the outcomes if so wished. Says at the end how it went, also if it is broken off.

        Raises:
            HeadraceError: something cannot be sent, Kafka does not take it, or an outcome is missing.
            KeyboardInterrupt, BrokenPipeError: once what was sent is told.
        """
        try:
            with self._interrupts:
                if self._one_by_one and not self._alone and not self._wishes.skip_bad:
                    self._check_all()
                self._send_all()
                self._deliveries.drain()
                if self._outcomes is not None:
                    self._outcomes.wait()
        except (HeadraceError, KeyboardInterrupt, BrokenPipeError) as error:
            with self._interrupts:
                self._break_off(error)
            raise
        except BaseException:
            self._view.stop()
            raise
        self._view.stop()
        if not self._alone:
            self._say_summary()
        return self._exit_code()

    def _check_all(self) -> None:
        """Raises what is wrong with any of them, before one is sent."""
        for made in self._given.events():
            if not isinstance(made, Skipped):
                self._record(made)

    def _send_all(self) -> None:
        pace = None
        for made in self._made():
            if isinstance(made, Skipped):
                self._view.skipped(made.origin, made.reason)
                continue
            try:
                event, value, headers = self._record(made)
            except ConfigError as error:
                self._refuse(error)
                continue
            if pace is not None:
                self._wait_turn(pace)
            if self._outcomes is not None:
                self._outcomes.awaited.sending(event.request.id)
            self._deliveries.send(event.request.id, event.origin, event.key, value, headers)
            if self._wishes.rate is not None and pace is None:
                self._deliveries.drain()  # the first opens the connection, which would hold up and then rush the others
                pace = Pace(self._wishes.rate, time.monotonic())
                pace.take(time.monotonic())
            if self._outcomes is not None:
                self._outcomes.look()
            self._view.refresh()

    def _made(self) -> Iterator[Event | Skipped | Bad]:
        for _ in range(self._wishes.repeat):
            if self._wishes.together:
                yield self._given.together()
            else:
                yield from self._given.events(self._idle)

    def _idle(self) -> None:
        """Standard input is silent: what comes meanwhile is told."""
        self._deliveries.poll()
        if self._outcomes is not None:
            self._outcomes.look()
        self._view.refresh()

    def _record(self, made: Event | Bad) -> tuple[Event, bytes, Headers]:
        """Value and headers of an event's record.

        Raises:
            ConfigError: what is wrong with the event, and which one it is.
        """
        try:
            if isinstance(made, Bad):
                raise made.error
            value, headers = record_of(made, self._schema_id)
            self._sender.check_size(self._wishes.topic, value, key=made.key, headers=headers)
        except (PoisonError, EventTooLargeError, ConfigError) as error:
            named = self._alone or made.origin in str(error)
            raise ConfigError(str(error) if named else f"{made.origin}: {error}") from error
        return made, value, headers

    def _refuse(self, error: ConfigError) -> None:
        if self._wishes.skip_bad:
            self._view.left_out(str(error))
        elif self._one_by_one:
            raise error
        else:
            advice = "nothing after it was sent: mend it, or say --skip-bad to leave such out"
            raise ConfigError(f"{error}; {advice}") from error

    def _wait_turn(self, pace: Pace) -> None:
        while (left := pace.wait_seconds(time.monotonic())) > 0:
            self._deliveries.poll()
            if left < 0.002:  # librdkafka counts in whole milliseconds
                time.sleep(left)
            elif self._outcomes is not None:
                self._outcomes.look(min(left, LOOK_SECONDS))
            else:
                self._deliveries.poll(min(left, LOOK_SECONDS))
            self._view.refresh()
        pace.take(time.monotonic())

    def _confirmed(self, record: Delivered) -> None:
        if self._outcomes is not None:
            self._outcomes.confirmed(record)

    def _break_off(self, error: BaseException) -> None:
        if self._deliveries.unconfirmed and not isinstance(error, UnavailableError):
            with contextlib.suppress(HeadraceError, BrokenPipeError, KeyboardInterrupt):
                self._deliveries.drain(LAST_WORDS_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            self._view.stop()
        if (self._deliveries.confirmed and not self._alone) or isinstance(error, KeyboardInterrupt):
            self._say_summary()

    def _say_summary(self) -> None:
        for line in self._view.summary(self._outcomes is not None, self._deliveries.unconfirmed):
            click.echo(line, err=True)

    def _exit_code(self) -> ExitCode:
        if self._view.dead_letters:
            return ExitCode.DEAD_LETTER
        return ExitCode.FAILED if self._view.bad else ExitCode.OK

    def _count(self) -> int | None:
        found = 1 if self._wishes.together else count(self._given.items)
        return None if found is None else found * self._wishes.repeat
