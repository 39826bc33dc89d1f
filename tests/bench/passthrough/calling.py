"""A record's value → its result's, by one call to Triton, as somebody would write it without headrace.

Imported in the environments of peers that call Triton: needs tritonclient and numpy beside what ``spec`` needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio

from headrace.pipeline.envelope import RequestDecoder, encode_result
from headrace.pipeline.records import (
    InferenceRequest,
    InferenceResult,
    NamedTensor,
    PartOutput,
    Provenance,
    Tensor,
    Timings,
)
from tests.bench.passthrough.spec import Spec

INPUTS = {"delay": "INPUT0", "identity": "INPUT0", "text_embedding": "TEXT", "image_jpeg": "ENCODED"}


class _Calling:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._decoder = RequestDecoder()
        self._decoder.add_schema(spec.request_schema_id, spec.request_schema)

    def _inputs(self, request: InferenceRequest, module: Any) -> list[Any]:
        content = request.parts[0].content
        if isinstance(content, Tensor):
            row = np.frombuffer(content.data, np.float32)[np.newaxis]
        else:
            row = np.array([[content.encode() if isinstance(content, str) else content]], np.object_)
        tensor = module.InferInput(
            INPUTS[self._spec.model], list(row.shape), "BYTES" if row.dtype.hasobject else "FP32"
        )
        tensor.set_data_from_numpy(row)
        return [tensor]

    def _result(self, request: InferenceRequest, reply: Any, where: Provenance) -> bytes:
        answer = reply.get_response()
        tensors = tuple(
            NamedTensor(each.name, Tensor(each.datatype, tuple(each.shape[1:]), data))
            for each, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        )
        part, model = request.parts[0].name, self._spec.model
        result = InferenceResult(
            request_id=request.id,
            status="OK",
            outputs=(PartOutput(part, model, model, answer.model_version, tensors=tensors),),
            provenance=where,
            timings=Timings(0.0, 0.0, 0.0),
            attempt=1,
            worker=self._spec.group,
            completed_ms=0,
        )
        return encode_result(result, self._spec.result_schema_id)


class Calling(_Calling):
    """Waits for the answer."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._client = grpc.InferenceServerClient(spec.triton_url)

    def answer(self, value: bytes | None, topic: str, partition: int, offset: int, timestamp_ms: int) -> bytes:
        request = self._decoder.decode(value)
        reply = self._client.infer(
            self._spec.model, self._inputs(request, grpc), parameters=dict(request.parameters) or None
        )
        return self._result(request, reply, Provenance(topic, partition, offset, timestamp_ms))


class AsyncCalling(_Calling):
    """Awaits the answer. To be made in the event loop."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._client = grpc_aio.InferenceServerClient(spec.triton_url)

    async def answer(self, value: bytes | None, topic: str, partition: int, offset: int, timestamp_ms: int) -> bytes:
        request = self._decoder.decode(value)
        reply = await self._client.infer(
            self._spec.model, self._inputs(request, grpc_aio), parameters=dict(request.parameters) or None
        )
        return self._result(request, reply, Provenance(topic, partition, offset, timestamp_ms))
