"""Three kinds of error for a record or the process: retriable, poison, fatal; and one for a record of a transaction.

Connectors map what their client raises to these, once, where the client is imported. The pipeline decides by kind:
a retriable error is tried again, a poison record goes to the dead-letter topic, a fatal error ends the process.
"""


class HeadraceError(Exception):
    """Base of every error that headrace raises on purpose."""


class RetriableError(HeadraceError):
    """May succeed if tried again: bounded by the route's retry budget."""


class UnavailableError(RetriableError):
    """The other side does not answer (down, refusing, unreachable). Waited out with back-off: costs no attempt."""


class PoisonError(HeadraceError):
    """A record that can never succeed; it becomes a dead letter.

    Args:
        stage: where on the journey it failed (see ``records.Stage``).
        code: a stable, short, upper-case name of the reason, for filters and metrics.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, stage: str, code: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.code = code
        self.message = message


class ExhaustedError(PoisonError):
    """A record that failed as often as it may for now, and yet may succeed later: a delay topic is for it.

    A dead letter where its route has none, or all its delays are spent.
    """


class OutputRefusedError(HeadraceError):
    """A transaction was aborted because one record of it can never be written: it is larger than its topic takes.

    Args:
        index: which one, in the order of the unit's outputs.
        reason: the broker's words.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class FatalError(HeadraceError):
    """The process cannot go on and must end with a clear message."""

    exit_code = 1


class ConfigError(FatalError):
    """A setting is wrong: the message names the file, the path in it and what is allowed."""

    exit_code = 2


class SlotTakenError(FatalError):
    """Another live worker holds this worker slot. Restarting will not help, so supervisors must not try."""

    exit_code = 3


class FencedError(FatalError):
    """The group holds another for this member: a second process, or itself, if an answer of the group was lost.

    Started again, the worker finds out which: it waits for its slot, and ends with SlotTakenError if that is held.
    """


class StackError(FatalError):
    """The embedded stack could not be set up, started or stopped."""
