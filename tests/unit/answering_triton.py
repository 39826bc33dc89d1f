"""A Triton that answers as a test tells it, over real gRPC; and the real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.connectors.triton import NO_ACCESS, Access, TritonInferenceClient


class AnsweringServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # the base has no types
    """Answers every call with one error, if it is not told more; keeps the infer requests it got."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.INTERNAL
        self.message = ""
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.headers: list[dict[str, str | bytes]] = []
        """Of the infer requests, and of questions whether it is ready."""
        self.config: service_pb2.ModelConfigResponse | None = None
        """Of every model, if it is to say how that is set up."""

    async def ModelInfer(self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext) -> None:
        self.requests.append(request)
        self._note(context)
        await context.abort(self.code, self.message)

    async def ModelConfig(self, request: service_pb2.ModelConfigRequest, context: grpc.aio.ServicerContext) -> Any:
        if self.config is None:
            await context.abort(self.code, self.message)
        return self.config

    async def ModelMetadata(self, request: service_pb2.ModelMetadataRequest, context: grpc.aio.ServicerContext) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])

    def _note(self, context: grpc.aio.ServicerContext) -> None:
        self.headers.append(dict(context.invocation_metadata() or ()))

    async def ServerReady(self, request: service_pb2.ServerReadyRequest, context: grpc.aio.ServicerContext) -> None:
        self._note(context)
        await context.abort(self.code, self.message)


@asynccontextmanager
async def answering_triton(
    folder: Path, access: Access = NO_ACCESS
) -> AsyncIterator[tuple[AnsweringServer, TritonInferenceClient]]:
    """The server, and a client of it; its socket is in the folder."""
    servicer = AnsweringServer()
    listener = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, listener)
    listener.add_insecure_port(f"unix:{folder}/triton")
    await listener.start()
    client = TritonInferenceClient(f"unix:{folder}/triton", access=access)
    yield servicer, client
    await client.close()
    await listener.stop(grace=None)
