"""What each answer of Triton becomes is what docs/errors.md says: the real client, told each answer over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from headrace.connectors.triton import TritonInferenceClient
from headrace.connectors.triton_meanings import BY_STATUS, BY_WORDING
from headrace.pipeline.errors import HeadraceError, PoisonError
from headrace.pipeline.ports import InferCall
from headrace.pipeline.records import Parameter
from tests.docs.error_table import SECTIONS, Row, told_of_call
from tests.unit.answering_triton import AnsweringServer, answering_triton

ROWS = SECTIONS["Triton"]
Both = tuple[AnsweringServer, TritonInferenceClient]


@pytest.fixture
async def triton(tmp_path: Path) -> AsyncIterator[Both]:
    async with answering_triton(tmp_path) as both:
        yield both


def call(**parameters: Parameter) -> InferCall:
    return InferCall("identity", "", {"INPUT0": np.zeros((1, 4), np.float32)}, parameters)


@pytest.mark.parametrize("row", [row for row in ROWS if row.lead], ids=str)
async def test_answer_becomes_what_its_row_says(triton: Both, row: Row) -> None:
    server, client = triton
    status, *wording = row.lead
    server.code = grpc.StatusCode[status]
    server.message = f"it says: {wording[0]} (9 vs. 4)" if wording else "words that tell nothing"
    for ask in (client.infer(call(), 5), client.signature("identity")):
        with pytest.raises(HeadraceError) as caught:
            await ask
        told_of_call(row, caught.value)


@pytest.mark.parametrize("parameters", [{"large": 2**63}, {"sequence_id": 3}], ids=["too large", "Triton's own"])
async def test_call_that_is_not_sent_becomes_what_its_row_says(triton: Both, parameters: dict[str, Parameter]) -> None:
    (row,) = (row for row in ROWS if not row.lead)
    server, client = triton
    with pytest.raises(PoisonError) as caught:
        await client.infer(call(**parameters), 5)
    told_of_call(row, caught.value)
    assert server.requests == []


async def test_model_that_answers_in_a_stream_becomes_what_its_row_says(triton: Both) -> None:
    (row,) = (row for row in SECTIONS["Models"] if row.letter == ("infer", "MODEL_UNSUPPORTED"))
    server, client = triton
    server.config = service_pb2.ModelConfigResponse()
    server.config.config.model_transaction_policy.decoupled = True
    with pytest.raises(PoisonError) as caught:
        await client.signature("identity")
    told_of_call(row, caught.value)


async def test_input_that_is_refused_becomes_what_its_row_says(triton: Both) -> None:
    (row,) = (row for row in SECTIONS["Models"] if row.letter == ("infer", "INVALID_INPUT"))
    server, client = triton
    server.code, server.message = grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape"
    with pytest.raises(PoisonError) as caught:
        await client.infer(call(), 5)
    told_of_call(row, caught.value)


def test_every_status_and_wording_has_a_row_and_no_other() -> None:
    alone = [row.lead for row in ROWS if len(row.lead) == 1]
    worded = [row.lead for row in ROWS if len(row.lead) > 1]
    statuses = {code.name for code in grpc.StatusCode} - {"OK"}
    assert {status for (status,) in alone} == statuses == {status for status in BY_STATUS if status}
    assert set(worded) == {(status, wording) for status, wording, _ in BY_WORDING}
    assert len(alone) + len(worded) == len({*alone, *worded})
