"""Servers on this machine are reached in spite of a proxy in the environment."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import getproxies

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.loopback import is_loopback, no_proxy_for_loopback
from headrace.connectors.registry import ConfluentRegistry
from headrace.connectors.triton import TritonInferenceClient

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a proxy that does not answer, in every variable."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with PortReservation() as ports:
        address = f"http://127.0.0.1:{ports.take()}"
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "grpc_proxy"):
            monkeypatch.setenv(name, address)
        yield address


class Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"schema": "\\"string\\""}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def registry_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


class Ready(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # the base has no types
    async def ServerReady(
        self, request: service_pb2.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ServerReadyResponse:
        return service_pb2.ServerReadyResponse(ready=True)


@pytest.fixture
async def triton_port() -> AsyncIterator[int]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Ready(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(grace=None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_registry_on_this_machine_is_not_asked_through_the_proxy(registry_port: int, host: str) -> None:
    with ConfluentRegistry(f"http://{host}:{registry_port}") as registry:
        assert registry.schema(5) == '"string"'


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_triton_on_this_machine_is_not_asked_through_the_proxy(triton_port: int, host: str) -> None:
    client = TritonInferenceClient(f"{host}:{triton_port}")
    assert await client.ready()
    await client.close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("unix", False),
    ],
)
def test_loopback_is_this_machine_by_definition(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("before", [None, "", "intranet"])
def test_only_loopback_hosts_are_left_out_and_only_meanwhile(
    monkeypatch: pytest.MonkeyPatch, before: str | None, proxy: str
) -> None:
    if before is not None:
        monkeypatch.setenv("no_proxy", before)
    with no_proxy_for_loopback("http://registry.example:8081, http://user:secret@[::1]:8081,http://localhost"):
        found = getproxies()
    assert [name for name in found["no"].split(",") if name] == [*filter(None, [before]), "::1", "localhost"]
    assert found["http"] == proxy
    assert os.environ.get("no_proxy") == before


def test_upper_case_variable_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    with no_proxy_for_loopback("http://localhost:8081"):
        assert getproxies()["no"] == "intranet,localhost"
    assert "no_proxy" not in os.environ
