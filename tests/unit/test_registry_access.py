"""A registry with TLS, which asks who is calling: the real client against a server of the test's."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import RegistrySettings
from headrace.pipeline.errors import ConfigError, FatalError, UnavailableError
from tests.certificates import Authority

SCHEMA = '"string"'


class _Handler(BaseHTTPRequestHandler):
    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        allowed = self.headers.get("Authorization") in (BASIC, BEARER)
        body = json.dumps({"schema": SCHEMA} if allowed else {"error_code": 40101, "message": "who are you?"}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


BASIC = "Basic " + base64.b64encode(b"me:s3cret").decode()
BEARER = "Bearer abc"
AUTHORITY = Authority()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Its URL. The files ``ca.pem``, ``me.pem`` and ``me.key`` are in the test's folder."""
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.certificate)
    AUTHORITY.issue("me").write(tmp_path, "me")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*AUTHORITY.issue("a registry under test").write(tmp_path, "server"))
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    handler = type("Handler", (_Handler,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connected(url: str, folder: Path, **properties: str) -> ConfluentRegistry:
    files = {
        "ssl.ca.location": str(folder / "ca.pem"),
        "ssl.certificate.location": str(folder / "me.pem"),
        "ssl.key.location": str(folder / "me.key"),
    }
    given = {name.replace("_", "."): value for name, value in properties.items()}
    return ConfluentRegistry.of(RegistrySettings(url=url, client={**files, **given}))


@pytest.mark.parametrize(
    "properties",
    [
        {"basic_auth_user_info": "me:s3cret"},
        {
            "bearer_auth_credentials_source": "STATIC_TOKEN",
            "bearer_auth_token": "abc",
            "bearer_auth_logical_cluster": "lsrc-1",
            "bearer_auth_identity_pool_id": "pool-1",
        },
    ],
    ids=["basic", "bearer"],
)
def test_who_is_known_is_let_in(registry: str, tmp_path: Path, properties: dict[str, str]) -> None:
    with connected(registry, tmp_path, **properties) as client:
        assert client.schema(1) == SCHEMA


def test_who_is_not_is_told_so_without_what_was_tried(registry: str, tmp_path: Path) -> None:
    client = connected(registry, tmp_path, basic_auth_user_info="me:wr0ng")
    with client, pytest.raises(FatalError, match="answers 401: who are you") as caught:
        client.schema(1)
    assert "wr0ng" not in str(caught.value)


def test_certificate_of_a_stranger_is_refused(registry: str, tmp_path: Path) -> None:
    stranger = Authority()
    (tmp_path / "strange.pem").write_bytes(stranger.certificate)
    client = connected(registry, tmp_path, ssl_ca_location=str(tmp_path / "strange.pem"))
    with client, pytest.raises(UnavailableError, match=r"(?i)certificate"):
        client.schema(1)
    certificate, key = stranger.issue("me").write(tmp_path, "stranger")
    own = {"ssl_certificate_location": str(certificate), "ssl_key_location": str(key)}
    with connected(registry, tmp_path, **own) as client, pytest.raises(UnavailableError):
        client.schema(1)


def test_properties_that_it_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"registry\.client: .*no\.such\.thing"):
        ConfluentRegistry.of(RegistrySettings(client={"no.such.thing": 1}))
