"""The Triton client against real servers: the shared one, and one of a test's own where the test breaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.errors import PoisonError, RetriableError, UnavailableError
from headrace.pipeline.ports import InferCall
from headrace.pipeline.records import Parameter

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


def call(model: str = "delay", version: str = "", **parameters: Parameter) -> InferCall:
    return InferCall(model, version, {"INPUT0": ROW}, parameters)


@pytest.fixture
async def client(stack: Endpoints) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(stack.triton_grpc)
    yield client
    await client.close()


async def test_ready_and_signature_of_a_served_model(client: TritonInferenceClient) -> None:
    assert await client.ready()
    assert await client.live()
    assert (await client.signature("identity")).version == "1"
    assert (await client.signature("identity", "1")).inputs[0].shape == (-1,)


async def test_infer_tells_the_version_that_answered(client: TritonInferenceClient) -> None:
    reply = await client.infer(call("identity"), 10)
    assert reply.model_version == "1"
    assert np.array_equal(reply.outputs["OUTPUT0"], ROW)


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("identity", "7")])
async def test_unknown_model_or_version_is_poison(client: TritonInferenceClient, model: str, version: str) -> None:
    for attempt in (client.infer(call(model, version), 10), client.signature(model, version)):
        with pytest.raises(PoisonError) as caught:
            await attempt
        assert caught.value.code == "MODEL_NOT_FOUND"
        assert caught.value.stage == "infer"


@pytest.mark.parametrize(
    "inputs",
    [
        {"INPUT0": ROW.astype(np.int32)},
        {"INPUT0": ROW[None]},
        {"NO_SUCH_INPUT": ROW},
        {"INPUT0": np.zeros((65, 4), np.float32)},
        {},
    ],
    ids=["datatype", "shape", "name", "batch size", "missing"],
)
async def test_input_that_the_model_does_not_take_is_poison(
    client: TritonInferenceClient, inputs: dict[str, np.ndarray]
) -> None:
    with pytest.raises(PoisonError) as caught:
        await client.infer(InferCall("identity", "", inputs), 10)
    assert caught.value.code == "INVALID_INPUT"


async def test_answer_that_takes_too_long_is_retriable(client: TritonInferenceClient) -> None:
    started = time.monotonic()
    with pytest.raises(RetriableError) as caught:
        await client.infer(call(delay_ms=3000), 0.3)
    assert not isinstance(caught.value, UnavailableError)
    assert time.monotonic() - started < 2


async def test_error_inside_a_model_is_retriable(client: TritonInferenceClient) -> None:
    with pytest.raises(RetriableError, match="as the request's parameter fail asks") as caught:
        await client.infer(call(fail="INTERNAL"), 10)
    assert not isinstance(caught.value, UnavailableError)


async def test_message_larger_than_grpc_allows_by_default_passes(client: TritonInferenceClient) -> None:
    large = np.zeros((1, 20_000_000), np.float32)  # 80 MB; gRPC's own limit is 4
    reply = await client.infer(InferCall("identity", "", {"INPUT0": large}), 60)
    assert reply.outputs["OUTPUT0"].nbytes == large.nbytes


async def test_call_of_lower_priority_waits_for_others_although_it_came_first(
    stack: Endpoints, client: TritonInferenceClient
) -> None:
    """Each call is a whole batch of the model, which has one instance."""
    behind = TritonInferenceClient(stack.triton_grpc, priority=2)
    words = np.array([[f"the mill turns {number} times".encode()] for number in range(64)], dtype=np.object_)
    long_call = InferCall("text_embedding", "", {"TEXT": words})
    ended: list[str] = []

    async def infer(name: str, by: TritonInferenceClient) -> None:
        await by.infer(long_call, 60)
        ended.append(name)

    async with asyncio.TaskGroup() as calls:
        for number in range(6):
            calls.create_task(infer(f"behind {number}", behind))
        await asyncio.sleep(0.1)  # they have come first
        calls.create_task(infer("live", client))
    await behind.close()
    assert ended.index("live") < 4


async def test_many_calls_share_the_channel(client: TritonInferenceClient) -> None:
    replies = await asyncio.gather(*(client.infer(call("identity"), 30) for _ in range(200)))
    assert all(np.array_equal(reply.outputs["OUTPUT0"], ROW) for reply in replies)


@pytest.fixture
async def own_client(own_triton: TritonServer) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(own_triton.grpc)
    yield client
    await client.close()


async def test_one_client_outlives_its_server(own_triton: TritonServer, own_client: TritonInferenceClient) -> None:
    """Down, up, killed with a call in flight, up again: the client is never made anew."""
    assert not await own_client.ready()
    with pytest.raises(UnavailableError):
        await own_client.infer(call(), 5)
    await asyncio.to_thread(own_triton.start)
    assert await answers_within(own_client, 5)
    in_flight = asyncio.create_task(own_client.infer(call(delay_ms=20_000), 60))
    await asyncio.wait([in_flight], timeout=0.5)
    await asyncio.to_thread(own_triton.kill)
    with pytest.raises(UnavailableError):
        await in_flight
    assert not await own_client.ready()
    await asyncio.to_thread(own_triton.start)
    assert await answers_within(own_client, 5)


async def answers_within(client: TritonInferenceClient, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if await client.ready():
            return (await client.infer(call(), 5)).model_version == "1"
        await asyncio.sleep(0.05)
    return False


async def test_server_that_shuts_down_is_unavailable(
    own_triton: TritonServer, own_client: TritonInferenceClient
) -> None:
    """It finishes what it has, and turns the rest away as if it had no such model: that must not be poison."""
    await asyncio.to_thread(own_triton.start)
    in_flight = asyncio.create_task(own_client.infer(call(delay_ms=4000), 30))
    await asyncio.wait([in_flight], timeout=0.5)
    stopping = asyncio.create_task(asyncio.to_thread(own_triton.stop))
    refused = 0
    while not stopping.done():
        try:
            await own_client.infer(call(version=("", "1")[refused % 2]), 5)
        except UnavailableError:
            refused += 1
            with pytest.raises(UnavailableError):
                await own_client.signature("delay", ("", "1")[refused % 2])
        await asyncio.sleep(0.02)
    await stopping
    assert refused > 10
    assert np.array_equal((await in_flight).outputs["OUTPUT0"], ROW)


async def test_model_whose_process_died_is_unavailable(
    own_triton: TritonServer, own_client: TritonInferenceClient
) -> None:
    """Triton 2.51 does not start it again, and says that it is ready."""
    await asyncio.to_thread(own_triton.start)
    pid = own_triton.process.pid
    stubs = [
        child for child in psutil.Process(pid).children(recursive=True) if "/identity/" in " ".join(child.cmdline())
    ]
    assert len(stubs) == 1
    stubs[0].kill()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="is not healthy"):
            await own_client.infer(call("identity"), 20)
    assert np.array_equal((await own_client.infer(call("delay"), 20)).outputs["OUTPUT0"], ROW)


async def test_cancelled_call_is_cancelled_in_the_server(
    own_triton: TritonServer, own_client: TritonInferenceClient
) -> None:
    """All four instances sleep for long; they are free again as soon as nobody waits for them."""
    await asyncio.to_thread(own_triton.start)
    sleeping = [asyncio.create_task(own_client.infer(call(delay_ms=60_000), 90)) for _ in range(4)]
    await asyncio.wait(sleeping, timeout=0.5)
    with pytest.raises(RetriableError):
        await own_client.infer(call(), 0.3)
    for task in sleeping:
        task.cancel()
    outcomes = await asyncio.gather(*sleeping, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert (await own_client.infer(call(), 5)).model_version == "1"
