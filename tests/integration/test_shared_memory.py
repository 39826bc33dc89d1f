"""Inputs in memory that Triton shares: real regions, a Triton of the test's own on this host."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc

from headrace.connectors import shared_inputs
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.shared_inputs import RegionServer, SharedInputs
from headrace.connectors.triton import Sharing, TritonInferenceClient
from headrace.pipeline.errors import PoisonError, RetriableError
from headrace.pipeline.ports import Array, InferCall
from tests.integration.avro_ends import DATA

FROM_BYTES = 100_000
ME = uuid.uuid4().hex
"""Unlike that of the tests which run in other processes meanwhile: what an owner left is removed."""
LARGE = np.random.default_rng(1).random((2, 100_000), np.float32)
SMALL = LARGE[:, :100]


def call(array: Array, model: str = "identity") -> InferCall:
    return InferCall(model, "", {"INPUT0": array})


def delayed(array: Array, milliseconds: int) -> InferCall:
    return InferCall("delay", "", {"INPUT0": array}, {"delay_ms": milliseconds})


def regions(triton: TritonServer) -> dict[str, int]:
    """Name and size of each that the server knows."""
    with grpc.InferenceServerClient(triton.grpc) as client:
        return {name: each.byte_size for name, each in client.get_system_shared_memory_status().regions.items()}


def files() -> list[Path]:
    """Of regions that these tests make, where such are made."""
    stem = SharedInputs(cast("RegionServer", None), 0, ME)._files
    return [*shared_inputs.FOLDER.glob(f"{stem}*")]


def mapped(process: psutil.Process) -> int:
    """How many regions a process has in its memory."""
    return sum("/headrace-inputs-" in each.path for each in process.memory_maps(grouped=False))


@pytest.fixture
async def triton(own_triton: TritonServer) -> TritonServer:
    await asyncio.to_thread(own_triton.start)
    return own_triton


@pytest.fixture
async def client(own_triton: TritonServer) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(own_triton.grpc, sharing=Sharing(FROM_BYTES, ME))
    yield client
    await client.close()


async def test_large_inputs_are_shared_and_small_ones_are_not(
    triton: TritonServer, client: TritonInferenceClient
) -> None:
    for array in (SMALL, LARGE, LARGE[:, ::2], LARGE[:1], LARGE.astype(np.float32)):
        assert np.array_equal((await client.infer(call(array), 20)).outputs["OUTPUT0"], array)
    (name,) = regions(triton)
    assert name.startswith(f"headrace/{ME}/")
    assert not files(), "nothing that a crash would leave"
    await client.close()
    assert not regions(triton)
    assert not mapped(psutil.Process())


async def test_bytes_are_shared(triton: TritonServer, client: TritonInferenceClient) -> None:
    photos = [path.read_bytes() for path in sorted((DATA / "photos").iterdir())]
    rows = np.array([[photo] for photo in photos], np.object_)
    plain = TritonInferenceClient(triton.grpc)
    asked = InferCall("image_jpeg", "", {"ENCODED": rows})
    expected, found = await plain.infer(asked, 60), await client.infer(asked, 60)
    await plain.close()
    assert regions(triton), "over gRPC"
    assert not any(found.outputs["ERROR"].flat)
    assert np.array_equal(found.outputs["LABELS"], expected.outputs["LABELS"])
    assert np.array_equal(found.outputs["SCORES"], expected.outputs["SCORES"])


async def test_calls_at_a_time_have_regions_of_their_own_that_are_used_again(
    triton: TritonServer, client: TritonInferenceClient
) -> None:
    for _ in range(3):
        arrays = [LARGE + number for number in range(8)]
        replies = await asyncio.gather(*(client.infer(delayed(each, 50), 20) for each in arrays))
        assert all(np.array_equal(a.outputs["OUTPUT0"], b) for a, b in zip(replies, arrays, strict=True))
    assert len(regions(triton)) == 8


async def test_server_that_was_restarted_is_told_of_new_regions(
    triton: TritonServer, client: TritonInferenceClient
) -> None:
    await client.infer(call(LARGE), 20)
    before = regions(triton)
    await asyncio.to_thread(triton.kill)
    await asyncio.to_thread(triton.start)
    assert not regions(triton)
    for _ in range(2):
        assert np.array_equal((await client.infer(call(LARGE), 20)).outputs["OUTPUT0"], LARGE)
    assert len(regions(triton)) == 1
    assert regions(triton).keys() != before.keys()
    assert mapped(psutil.Process()) == 1


async def test_region_of_a_call_that_was_given_up_is_not_used_again(
    triton: TritonServer, client: TritonInferenceClient
) -> None:
    with pytest.raises(RetriableError):
        await client.infer(delayed(LARGE, 3_000), 0.5)
    task = asyncio.create_task(client.infer(delayed(LARGE, 3_000), 20))
    await asyncio.wait([task], timeout=0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    given_up = regions(triton).keys()
    assert len(given_up) == 2, "the server reads them still"
    assert np.array_equal((await client.infer(call(-LARGE), 20)).outputs["OUTPUT0"], -LARGE)
    for calls in range(2, 20):  # each time one more region is made, and the server asked to let go
        await asyncio.gather(*(client.infer(delayed(LARGE, 500), 20) for _ in range(calls)))
        if not regions(triton).keys() & given_up:
            return
    pytest.fail("the server has them still")


async def test_region_of_a_call_that_was_refused_is_used_again(
    triton: TritonServer, client: TritonInferenceClient
) -> None:
    for _ in range(3):
        with pytest.raises(PoisonError):
            await client.infer(call(LARGE.astype(np.int32)), 20)
    assert len(regions(triton)) == 1


async def test_what_an_earlier_process_left_is_removed(triton: TritonServer, client: TritonInferenceClient) -> None:
    """It was killed. If it was not, and only thought dead, its calls are answered all the same."""
    other = TritonInferenceClient(triton.grpc, sharing=Sharing(FROM_BYTES, f"{ME}-2"))
    earlier = TritonInferenceClient(triton.grpc, sharing=Sharing(FROM_BYTES, ME))
    for each in (earlier, other):
        await each.infer(call(LARGE), 20)
    left = regions(triton)
    await client.infer(call(LARGE), 20)
    kept = regions(triton).keys() & left.keys()
    assert [name.rpartition("/")[0] for name in kept] == [f"headrace/{ME}-2"]
    assert np.array_equal((await earlier.infer(call(LARGE), 20)).outputs["OUTPUT0"], LARGE)
    for each in (earlier, other):
        await each.close()


async def test_server_that_cannot_open_them_gets_all_over_grpc(
    triton: TritonServer,
    client: TritonInferenceClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one on another host: it looks for them elsewhere."""
    monkeypatch.setattr(shared_inputs, "FOLDER", tmp_path)
    for _ in range(2):
        assert np.array_equal((await client.infer(call(LARGE), 20)).outputs["OUTPUT0"], LARGE)
    assert [record.getMessage() for record in caplog.records if "gRPC" in record.getMessage()] == [
        next(each.getMessage() for each in caplog.records if "Unable to open shared memory region" in each.message)
    ]
    assert not regions(triton)
    assert not mapped(psutil.Process())
    assert not files()
