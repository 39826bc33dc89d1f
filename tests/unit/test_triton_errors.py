"""Which of our errors each answer of Triton becomes: the real client against a server that answers as told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.errors import FatalError, HeadraceError, PoisonError, RetriableError, UnavailableError
from headrace.pipeline.ports import InferCall
from headrace.pipeline.records import Parameter
from tests.unit.answering_triton import AnsweringServer, answering_triton

CALL = InferCall("identity", "", {"INPUT0": np.zeros((1, 4), np.float32)})

CODE = grpc.StatusCode


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[AnsweringServer, TritonInferenceClient]]:
    async with answering_triton(tmp_path) as both:
        yield both


@pytest.fixture
def server(both: tuple[AnsweringServer, TritonInferenceClient]) -> AnsweringServer:
    return both[0]


@pytest.fixture
def client(both: tuple[AnsweringServer, TritonInferenceClient]) -> TritonInferenceClient:
    return both[1]


@pytest.mark.parametrize(
    ("code", "message", "kind", "reason"),
    [
        (CODE.UNAVAILABLE, "Server exiting", UnavailableError, None),
        (CODE.UNAVAILABLE, "'m' version 1 is not at ready state", UnavailableError, None),
        (CODE.NOT_FOUND, "Request for unknown model: 'm' has no available versions", UnavailableError, None),
        (CODE.INTERNAL, "Stub process 'm_0_0' is not healthy.", UnavailableError, None),
        (CODE.NOT_FOUND, "Request for unknown model: 'm' is not found", PoisonError, "MODEL_NOT_FOUND"),
        (CODE.NOT_FOUND, "Request for unknown model: 'm' version 7 is not found", PoisonError, "MODEL_NOT_FOUND"),
        (CODE.NOT_FOUND, "the model's own word for a row", PoisonError, "INVALID_INPUT"),
        (CODE.INVALID_ARGUMENT, "unexpected shape", PoisonError, "INVALID_INPUT"),
        (CODE.OUT_OF_RANGE, "", PoisonError, "INVALID_INPUT"),
        (CODE.FAILED_PRECONDITION, "", PoisonError, "INVALID_INPUT"),
        (CODE.UNIMPLEMENTED, "decoupled", PoisonError, "MODEL_UNSUPPORTED"),
        (CODE.UNIMPLEMENTED, "the model's own word for a row", PoisonError, "MODEL_UNSUPPORTED"),
        (CODE.UNIMPLEMENTED, "Received http2 header with status: 404", UnavailableError, None),
        (CODE.INTERNAL, "an exception in the model", RetriableError, None),
        (CODE.DEADLINE_EXCEEDED, "", RetriableError, None),
        (CODE.RESOURCE_EXHAUSTED, "", RetriableError, None),
        (CODE.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 4)", PoisonError, "INVALID_INPUT"),
        (CODE.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", RetriableError, None),
        (CODE.UNAVAILABLE, "Request timeout expired", RetriableError, None),
        (CODE.ABORTED, "", RetriableError, None),
        (CODE.CANCELLED, "", UnavailableError, None),
        (CODE.UNKNOWN, "", RetriableError, None),
        (CODE.UNKNOWN, "Received http2 header with status: 500", RetriableError, None),
        (CODE.UNKNOWN, "Received http2 header with status: 413", PoisonError, "INVALID_INPUT"),
        (CODE.DATA_LOSS, "", RetriableError, None),
        (CODE.ALREADY_EXISTS, "", RetriableError, None),
        (CODE.UNAUTHENTICATED, "", FatalError, None),
        (CODE.PERMISSION_DENIED, "", FatalError, None),
    ],
)
async def test_answer_becomes_one_kind_of_error(
    client: TritonInferenceClient,
    server: AnsweringServer,
    code: grpc.StatusCode,
    message: str,
    kind: type[HeadraceError],
    reason: str | None,
) -> None:
    server.code, server.message = code, message
    for call in (client.infer(CALL, 5), client.signature("identity")):
        with pytest.raises(kind) as caught:
            await call
        assert type(caught.value) is kind
        assert getattr(caught.value, "code", None) == reason
        assert message in str(caught.value)
        assert "identity" in str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        CODE.UNAVAILABLE,
        CODE.DEADLINE_EXCEEDED,
        CODE.INTERNAL,
        CODE.UNKNOWN,
        CODE.UNIMPLEMENTED,
        CODE.NOT_FOUND,
        CODE.INVALID_ARGUMENT,
    ],
)
async def test_server_that_answers_errors_is_not_ready(
    client: TritonInferenceClient, server: AnsweringServer, code: grpc.StatusCode
) -> None:
    server.code = code
    assert not await client.ready()


async def test_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    client = TritonInferenceClient(f"unix:{tmp_path}/nobody")
    assert not await client.ready()
    with pytest.raises(UnavailableError):
        await client.infer(CALL, 5)
    with pytest.raises(UnavailableError):
        await client.signature("identity")
    await client.close()


async def test_infer_sends_tensors_as_raw_bytes(client: TritonInferenceClient, server: AnsweringServer) -> None:
    texts = np.array([["añ".encode()], [b""]], np.object_)
    inputs = {"TEXT": texts, "N": np.array([[1], [2]], np.int16), "B": np.array([[True], [False]])}
    with pytest.raises(RetriableError):
        await client.infer(InferCall("m", "3", inputs, {"a": 1, "b": "x", "c": 0.5, "d": True}), 5)
    (request,) = server.requests
    assert (request.model_name, request.model_version) == ("m", "3")
    assert [(value.name, value.datatype, list(value.shape)) for value in request.inputs] == [
        ("TEXT", "BYTES", [2, 1]),
        ("N", "INT16", [2, 1]),
        ("B", "BOOL", [2, 1]),
    ]
    assert list(request.raw_input_contents) == [b"\3\0\0\0a\xc3\xb1\0\0\0\0", b"\1\0\2\0", b"\1\0"]
    parameters = request.parameters
    assert parameters["a"].int64_param == 1
    assert parameters["b"].string_param == "x"
    assert parameters["c"].double_param == 0.5
    assert parameters["d"].bool_param is True


@pytest.mark.parametrize(
    ("array", "parameters"),
    [
        (np.zeros((1, 4), np.complex64), {}),
        (np.zeros((1, 4), ">f4"), {}),
        (np.zeros((1, 4), np.float32), {"sequence_id": 3}),
        (np.zeros((1, 4), np.float32), {"large": 2**63}),
    ],
)
async def test_call_that_cannot_be_sent_is_poison(
    client: TritonInferenceClient, server: AnsweringServer, array: np.ndarray, parameters: dict[str, Parameter]
) -> None:
    with pytest.raises(PoisonError) as caught:
        await client.infer(InferCall("m", "", {"X": array}, parameters), 5)
    assert caught.value.code == "INVALID_INPUT"
    assert not server.requests
