from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from headrace.connectors.triton import Access
from headrace.pipeline.config import TritonSettings
from headrace.pipeline.errors import RetriableError
from headrace.pipeline.ports import InferCall
from tests.unit.answering_triton import answering_triton

CALL = InferCall("identity", "", {"INPUT0": np.zeros((1, 4), np.float32)})


async def test_headers_come_with_each_call(tmp_path: Path) -> None:
    headers = {"authorization": "Bearer abc", "x-tenant": "me"}
    async with answering_triton(tmp_path, Access(headers=headers)) as (server, client):
        with pytest.raises(RetriableError):
            await client.infer(CALL, 5)
        assert not await client.ready()
    assert len(server.headers) == 2
    assert all(headers.items() <= found.items() for found in server.headers)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tls_ca_location": "ca.pem"}, "need tls: true"),
        ({"tls": True, "tls_key_location": "key.pem"}, "go together"),
        ({"tls": True, "tls_certificate_location": "me.pem"}, "go together"),
        ({"headers": {"Authorization": "x"}}, "lower case"),
        ({"headers": {"x-bin": "x"}}, "no name that gRPC takes"),
        ({"headers": {"x": "a\nb"}}, "not printable ASCII"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TritonSettings.model_validate(settings)
