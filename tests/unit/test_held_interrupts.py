from __future__ import annotations

import os
import signal

import pytest

from headrace.pipeline.cli.interrupts import HeldInterrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_interrupt_inside_is_raised_at_the_end() -> None:
    done = []
    with HeldInterrupts() as interrupts, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - what is done inside matters
        with interrupts.held():
            interrupt()
            done.append("all of the call")
        done.append("more")
    assert done == ["all of the call"]


def test_interrupt_outside_is_raised_at_once() -> None:
    with HeldInterrupts() as interrupts:
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_interrupt_is_raised_once() -> None:
    with HeldInterrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            interrupt()
        with interrupts.held():
            pass


def fail_interrupted() -> None:
    interrupt()
    raise ValueError("its own")


def test_error_of_the_call_goes_first() -> None:
    with HeldInterrupts() as interrupts, pytest.raises(ValueError, match="its own"), interrupts.held():
        fail_interrupted()


def test_handler_from_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with HeldInterrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
