"""Triton with TLS, with certificates of clients, and headers that a gateway asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.config import TritonSettings
from headrace.pipeline.errors import ConfigError, UnavailableError
from headrace.pipeline.ports import InferCall
from tests.certificates import DAY, HOUR, Authority, Issued

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)
CALL = InferCall("identity", "", {"INPUT0": ROW})
RECONNECT_SECONDS = 10.0


class Secured:
    """A Triton whose certificate an authority has signed, and clients of it."""

    def __init__(self, make: Callable[..., TritonServer], folder: Path, mutual: bool) -> None:
        self.authority = Authority()
        self._folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.authority.certificate)
        self.use(self.authority.issue("a Triton under test"))
        self.server = make(
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={folder}/server.pem",
            f"--grpc-server-key={folder}/server.key",
            f"--grpc-root-cert={self.ca_file}",
            f"--grpc-use-ssl-mutual={str(mutual).lower()}",
        )

    def use(self, issued: Issued) -> None:
        """From its next start on."""
        issued.write(self._folder, "server")

    def settings(self, **more: Any) -> TritonSettings:
        given = {"url": self.server.grpc, "tls": True, "tls_ca_location": str(self.ca_file), **more}
        return TritonSettings.model_validate(given)


async def answers(settings: TritonSettings) -> bool:
    """Whether it answers rightly. Raises what the client raises."""
    client = TritonInferenceClient.of(settings)
    try:
        return np.array_equal((await client.infer(CALL, 5)).outputs["OUTPUT0"], ROW)
    finally:
        await client.close()


async def refused(client: TritonInferenceClient, reason: str) -> None:
    """Wait until its errors, which are those of its last try to connect, say so."""
    async with asyncio.timeout(RECONNECT_SECONDS):
        while True:
            with pytest.raises(UnavailableError) as caught:
                await client.infer(CALL, 5)
            if reason in str(caught.value).lower():
                return
            await asyncio.sleep(0.05)


async def test_tls(make_triton: Callable[..., TritonServer], tmp_path: Path) -> None:
    secured = Secured(make_triton, tmp_path, mutual=False)
    await asyncio.to_thread(secured.server.start)
    assert await answers(secured.settings())
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().certificate)
    for wrong in (secured.settings(tls_ca_location=str(other)), TritonSettings(url=secured.server.grpc)):
        with pytest.raises(UnavailableError, match=secured.server.grpc):
            await answers(wrong)
    client = TritonInferenceClient.of(secured.settings())
    assert await client.ready()
    await asyncio.to_thread(secured.server.kill)
    secured.use(secured.authority.issue("expired", valid=-HOUR))
    await asyncio.to_thread(secured.server.start)
    await refused(client, "handshake failed")
    await asyncio.to_thread(secured.server.kill)
    secured.use(secured.authority.issue("a Triton with a newer certificate", valid=2 * DAY))
    await asyncio.to_thread(secured.server.start)
    async with asyncio.timeout(RECONNECT_SECONDS):
        while not await client.ready():
            pass
    assert np.array_equal((await client.infer(CALL, 5)).outputs["OUTPUT0"], ROW)
    await client.close()


async def test_certificates_of_clients(make_triton: Callable[..., TritonServer], tmp_path: Path) -> None:
    secured = Secured(make_triton, tmp_path, mutual=True)
    await asyncio.to_thread(secured.server.start)

    def presenting(authority: Authority, name: str) -> TritonSettings:
        certificate, key = authority.issue(name).write(tmp_path, name)
        return secured.settings(tls_certificate_location=str(certificate), tls_key_location=str(key))

    assert await answers(presenting(secured.authority, "worker"))
    for wrong in (secured.settings(), presenting(Authority(), "stranger")):
        with pytest.raises(UnavailableError):
            await answers(wrong)


async def test_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pem: No such file"):
        TritonInferenceClient.of(TritonSettings(tls=True, tls_ca_location=str(tmp_path / "nowhere.pem")))
