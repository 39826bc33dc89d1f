"""The chaos tests' TCP proxy does to connections what it is told, and nothing else."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.proxy import BUFFER_BYTES, FaultProxy

SOON_SECONDS = 5.0
"""Far more than anything here takes."""
SILENCE_SECONDS = 0.05


class Echo:
    """Sends back what it is sent; counts the connections that ended by a reset."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listener.getsockname()[1]
        self.received = 0
        self.resets = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    self.received += len(data)
                    connection.sendall(data)
            except OSError:
                self.resets += 1

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(SOON_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(0, echo.port, random.Random(7)) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections through the proxy to the echo, seen to work if they are to."""
    with ExitStack() as resources:

        def connect() -> socket.socket:
            made = resources.enter_context(socket.create_connection(("127.0.0.1", proxy.port), SOON_SECONDS))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made

        yield connect


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.001)


def read(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        assert part, "ended early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def echoes(connection: socket.socket, data: bytes) -> float:
    """Seconds until all of it is back."""
    began = time.monotonic()
    connection.sendall(data)
    assert read(connection, len(data)) == data
    return time.monotonic() - began


def is_silent(connection: socket.socket) -> bool:
    """Whether it stays open and brings nothing for a while."""
    connection.settimeout(SILENCE_SECONDS)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(SOON_SECONDS)
    return False


def test_healthy_proxy_carries_every_byte_in_order(connect: Callable[[], socket.socket]) -> None:
    data = random.Random(1).randbytes(3_000_000)
    connection = connect()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    assert read(connection, len(data)) == data
    sender.join()


def test_end_of_a_stream_is_passed_on_and_leaves_the_other_open(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.sendall(b"last words")
    connection.shutdown(socket.SHUT_WR)
    assert read(connection, 10) == b"last words"
    assert connection.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, "the connection to be forgotten")


def test_cut_resets_a_share_on_both_sides(echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    connections = [connect() for _ in range(4)]
    for connection in connections:
        echoes(connection, b"x")
    assert proxy.cut(0.5, random.Random(3)) == 2
    assert proxy.connections == 2
    wait_until(lambda: echo.resets == 2, "the server to see the resets")
    alive = []
    for connection in connections:
        try:
            echoes(connection, b"y")
            alive.append(connection)
        except ConnectionResetError:
            continue
    assert len(alive) == 2
    assert proxy.cut() == 2
    with pytest.raises(ConnectionResetError):
        alive[0].recv(1)
    echoes(connect(), b"z")


def test_refused_connections_are_reset_and_open_ones_stay(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    before = connect()
    echoes(before, b"x")
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        connect().recv(1)
    echoes(before, b"y")
    assert proxy.connections == 1
    proxy.refuse(False)
    echoes(connect(), b"z")


def test_connection_is_reset_when_nobody_listens_behind(echo: Echo, connect: Callable[[], socket.socket]) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    with pytest.raises(ConnectionResetError):
        connect().recv(1)
    echo.listener = socket.create_server(("127.0.0.1", 0))  # for its end


def test_delay_applies_each_way_and_keeps_the_order(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    proxy.delay(0.05, jitter=0.04)
    data = bytes(range(256)) * 20
    began = time.monotonic()
    for start in range(0, len(data), 256):
        connection.sendall(data[start : start + 256])
        time.sleep(0.001)  # so that they come one by one, each with a delay of its own
    assert read(connection, len(data)) == data
    assert time.monotonic() - began > 0.1 - 0.08
    proxy.delay(0.1)
    assert 0.2 <= echoes(connection, b"x") < SOON_SECONDS


def test_heal_delivers_what_is_delayed_at_once(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    echoes(connection, b"x")
    proxy.delay(60)
    connection.sendall(b"y")
    assert is_silent(connection)
    proxy.heal()
    assert read(connection, 1) == b"y"


def test_held_replies_let_requests_through_and_come_with_the_heal(
    echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    proxy.hold(requests=False, replies=True)
    connection.sendall(b"commit")
    wait_until(lambda: echo.received == 6, "the request to get through")
    assert is_silent(connection)
    assert proxy.heal() == 0
    assert read(connection, 6) == b"commit"


def test_held_requests_wait_with_the_end_behind_them(
    echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    echoes(connection, b"x")
    proxy.hold(requests=True, replies=False)
    connection.sendall(b"commit")
    connection.shutdown(socket.SHUT_WR)
    assert is_silent(connection)
    assert echo.received == 1
    proxy.heal()
    assert read(connection, 6) == b"commit"
    assert connection.recv(1) == b""


def test_heal_with_drop_resets_what_is_held_and_nothing_else(
    echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    idle, waiting = connect(), connect()
    for connection in (idle, waiting):
        echoes(connection, b"x")
    proxy.hold(requests=True, replies=True)
    waiting.sendall(b"commit")
    assert is_silent(waiting)
    assert proxy.heal(drop=True) == 1
    with pytest.raises(ConnectionResetError):
        waiting.recv(1)
    echoes(idle, b"y")
    assert echo.received == 3


def test_client_that_dies_is_not_noticed_behind_a_hold(
    echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    echoes(connection, b"x")
    proxy.hold()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    time.sleep(SILENCE_SECONDS)
    assert (proxy.connections, echo.resets) == (1, 0)
    proxy.heal()
    wait_until(lambda: proxy.connections == 0 and echo.resets == 1, "the reset to be passed on")


def test_throttle_holds_the_pace_of_each_connection(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    connections = [connect() for _ in range(8)]
    proxy.throttle(500_000)
    began = time.monotonic()
    for connection in connections:
        connection.sendall(bytes(100_000))
    for connection in connections:
        read(connection, 100_000)
    assert 0.14 < time.monotonic() - began < 1.0  # the first slice goes at once; all as one would take 1.6 s
    with pytest.raises(ValueError, match="must be positive"):
        proxy.throttle(0)


def test_connection_that_is_not_read_is_bounded_and_holds_up_no_other(
    echo: Echo, proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    slow, other = connect(), connect()
    proxy.hold(requests=True, replies=False)
    slow.settimeout(0.1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 10 * BUFFER_BYTES:
            sent += slow.send(bytes(1 << 16))
    assert BUFFER_BYTES < sent < 10 * BUFFER_BYTES
    proxy.heal()
    wait_until(lambda: echo.received > 0, "the echo to begin, and be stuck since nobody reads it")
    assert echoes(other, b"x") < 1
    slow.settimeout(SOON_SECONDS)
    read(slow, sent)


def test_close_resets_connections_and_frees_the_port(echo: Echo, connect: Callable[[], socket.socket]) -> None:
    proxy = FaultProxy(0, echo.port)
    with socket.create_connection(("127.0.0.1", proxy.port), SOON_SECONDS) as connection:
        echoes(connection, b"x")
        proxy.close()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(RuntimeError, match="is closed"):
        proxy.heal()
    with FaultProxy(proxy.port, echo.port) as again:
        assert again.port == proxy.port
        with pytest.raises(OSError, match="in use"):
            FaultProxy(proxy.port, echo.port)


@pytest.mark.parametrize("number", range(20))
def test_close_waits_for_no_connection_that_is_just_being_made(echo: Echo, number: int) -> None:
    proxy = FaultProxy(0, echo.port)
    with contextlib.ExitStack() as connections:
        for _ in range(number):
            connections.enter_context(socket.create_connection(("127.0.0.1", proxy.port), SOON_SECONDS))
        began = time.monotonic()
        proxy.close()
        assert time.monotonic() - began < SOON_SECONDS
    gc.collect()  # a transport that is left open warns
