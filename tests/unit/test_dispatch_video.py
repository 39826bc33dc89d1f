"""Videos beside everything else that a route does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from headrace.pipeline.errors import FatalError, PoisonError, UnavailableError
from headrace.pipeline.limits import MAX_FRAME_BYTES
from headrace.pipeline.ports import TensorSpec
from headrace.pipeline.records import Modality, Part, PartOutput
from tests.unit.dispatch_bench import Bench
from tests.unit.fakes import EPOCH_MS, TEXT, on_virtual_time, settle

MP4 = b"\0\0\0\x18ftypisom\0\0\2\0"


def clip(name: str = "clip", size: int = 0) -> Part:
    return Part(name, Modality.VIDEO, "video/mp4", MP4 + name.encode() + bytes(size))


@on_virtual_time
async def test_video_becomes_one_call_of_its_frames() -> None:
    bench = Bench()
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(1)
    assert bench.client.batches == [3]
    content = clip().content
    assert isinstance(content, bytes)
    assert bench.client.calls[0].inputs["IN"].ravel().tolist() == [content + b"-%d" % index for index in range(3)]
    outcome = bench.outcomes[0]
    assert isinstance(outcome, PartOutput)
    assert outcome.batch_size == 3
    assert len(outcome.segments) == 3


@on_virtual_time
async def test_video_shares_its_call_with_other_parts() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 5
    await bench.begin()
    await bench.submit(0)
    await settle()
    await bench.dispatcher.submit([bench.task(1, clip()), bench.task(2)])
    await asyncio.sleep(20)
    assert bench.client.batches == [1, 4]
    assert bench.codes == {0: "ok", 1: "ok", 2: "ok"}


@on_virtual_time
async def test_sampling_holds_up_no_other_part_of_the_route() -> None:
    bench = Bench()
    bench.sampler.latency_seconds = 600
    await bench.begin()
    async with asyncio.timeout(0.1):
        await bench.dispatcher.submit([bench.task(0, clip()), bench.task(1)])
        await bench.submit(2)
    await asyncio.sleep(10)
    assert bench.codes == {1: "ok", 2: "ok"}
    await asyncio.sleep(600)
    assert bench.codes == {0: "ok", 1: "ok", 2: "ok"}


@on_virtual_time
async def test_so_many_videos_are_sampled_at_a_time_in_their_order() -> None:
    bench = Bench()
    await bench.begin()
    await bench.dispatcher.submit([bench.task(offset, clip(f"{offset}")) for offset in range(9)])
    await asyncio.sleep(30)
    assert bench.codes == dict.fromkeys(range(9), "ok")
    assert bench.sampler.videos == [clip(f"{offset}").content for offset in range(9)]
    assert bench.sampler.most_in_flight == bench.sampler.processes == 2


@on_virtual_time
async def test_frames_are_bounded_by_setting_batch_and_model() -> None:
    for most, route, model in ((3, {"max_frames": 3}, 8), (4, {"max_frames": 64}, 8), (2, {"max_frames": 64}, 2)):
        bench = Bench(video=route)  # batch.max_records is 4
        bench.sampler.frames = 100
        bench.client.models["echo"] = replace(TEXT, max_batch_size=model)
        await bench.begin()
        await bench.dispatcher.submit([bench.task(0, clip())])
        await asyncio.sleep(1)
        assert [plan.max_frames for plan in bench.sampler.plans] == [most]
        assert bench.client.batches == [most]
        assert bench.codes == {0: "ok"}


@on_virtual_time
async def test_frames_that_wait_for_the_model_are_bounded_by_their_bytes() -> None:
    bench = Bench(max_concurrency=1, batch={"max_records": 3, "max_delay_seconds": 0})
    bench.client.latency_seconds = 100
    await bench.begin()
    large = clip(size=MAX_FRAME_BYTES // 6)  # three frames, each as large as it: half of what is allowed
    await bench.dispatcher.submit([bench.task(offset, large) for offset in range(8)])
    await asyncio.sleep(50)
    assert len(bench.sampler.plans) <= 4
    await asyncio.sleep(1000)
    assert bench.codes == dict.fromkeys(range(8), "ok")


@on_virtual_time
async def test_video_goes_as_it_is_to_a_model_that_takes_it() -> None:
    bench = Bench(video={"sample": "none"})
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(1)
    assert bench.client.calls[0].inputs["IN"].tolist() == [[clip().content]]
    assert bench.sampler.plans == []


@on_virtual_time
async def test_video_goes_as_it_is_to_a_model_that_takes_anything() -> None:
    bench = Bench()
    bench.client.models["echo"] = replace(TEXT, inputs=(TensorSpec("CONTENT", "BYTES", (1,)),))
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(1)
    assert bench.client.calls[0].inputs["CONTENT"].tolist() == [[clip().content]]
    assert bench.sampler.plans == []


@on_virtual_time
async def test_what_is_no_video_is_refused_before_it_is_sampled() -> None:
    bench = Bench()
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, replace(clip(), content=b"RIFF" * 10))])
    bench.client.models["pixels"] = replace(TEXT, name="pixels", inputs=(TensorSpec("IN", "UINT8", (3,)),))
    await bench.dispatcher.submit([bench.task(1, clip(), model="pixels")])
    assert bench.codes == {0: "BAD_VIDEO", 1: "MODALITY_MISMATCH"}
    assert bench.sampler.plans == []


@on_virtual_time
async def test_video_that_cannot_be_sampled_fails_alone_and_names_its_part() -> None:
    bench = Bench()
    bench.sampler.script = lambda video: (
        PoisonError("prepare", "VIDEO_TRUNCATED", "the file is cut short") if b"bad" in video else None
    )
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip("bad")), bench.task(1, clip())])
    await asyncio.sleep(3)
    assert bench.codes == {0: "VIDEO_TRUNCATED", 1: "ok"}
    assert str(bench.outcomes[0]) == "part 'bad': the file is cut short"


@on_virtual_time
async def test_unexpected_error_fails_its_video_alone() -> None:
    bench = Bench()
    bench.sampler.script = lambda video: RuntimeError("a bug") if b"bad" in video else None
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip("bad")), bench.task(1, clip())])
    await asyncio.sleep(3)
    assert bench.codes == {0: "UNEXPECTED", 1: "ok"}


@on_virtual_time
async def test_fatal_error_ends_the_dispatcher() -> None:
    bench = Bench()
    bench.sampler.script = lambda video: FatalError("cannot go on")
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    done, _ = await asyncio.wait([bench.running], timeout=5)
    assert [str(task.exception()) for task in done] == ["cannot go on"]


@on_virtual_time
async def test_decoder_that_cannot_be_started_is_waited_for() -> None:
    bench = Bench()
    bench.sampler.script = lambda video: UnavailableError("no memory")
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(60)
    assert bench.outcomes == {}
    waited_for = bench.health.waiting_for
    assert waited_for == ("video decoder",)
    bench.sampler.script = lambda video: None
    await asyncio.sleep(5)
    assert bench.codes == {0: "ok"}
    assert bench.health.waiting_for == ()


@on_virtual_time
async def test_deadline_ends_a_sampling() -> None:
    bench = Bench()
    bench.sampler.latency_seconds = 600
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip(), deadline_ms=EPOCH_MS + 3_000)])
    await asyncio.sleep(4)
    assert bench.codes == {0: "DEADLINE_EXCEEDED"}
    assert bench.sampler.in_flight == 0
    assert len(bench.sampler.cancelled) == 1


@on_virtual_time
async def test_lost_partition_ends_a_sampling_and_those_that_wait() -> None:
    bench = Bench()
    bench.sampler.latency_seconds = 600
    await bench.begin()
    await bench.dispatcher.submit([bench.task(offset, clip()) for offset in range(5)])
    await asyncio.sleep(1)
    await bench.source.lose()
    await asyncio.sleep(2)
    assert bench.sampler.in_flight == 0
    assert len(bench.sampler.cancelled) == 2
    assert len(bench.sampler.plans) == 2
    assert bench.outcomes == {}


@on_virtual_time
async def test_revoke_does_not_wait_for_a_sampling_but_for_the_call_of_its_frames() -> None:
    """What has no call yet is processed again by the successor, as any record that waits."""
    bench = Bench()
    bench.client.latency_seconds = 4
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(1)
    bench.sampler.latency_seconds = 600
    await bench.dispatcher.submit([bench.task(1, clip())])
    await settle()
    began = asyncio.get_running_loop().time()
    await bench.source.revoke()
    assert 3 < asyncio.get_running_loop().time() - began < 4
    assert bench.codes == {0: "ok"}
    await asyncio.sleep(1)
    assert bench.sampler.in_flight == 0


@on_virtual_time
async def test_video_whose_model_was_replaced_is_sampled_for_the_new_one() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.models["echo"] = replace(TEXT, max_batch_size=2, inputs=(TensorSpec("PROMPT", "BYTES", (1,)),))
    await bench.dispatcher.submit([bench.task(1, clip())])
    await asyncio.sleep(5)
    assert bench.codes == {0: "ok", 1: "ok"}
    assert bench.client.batches == [1, 3, 2]


@on_virtual_time
async def test_end_of_the_dispatcher_ends_what_is_sampled() -> None:
    bench = Bench()
    bench.sampler.latency_seconds = 600
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, clip())])
    await asyncio.sleep(1)
    bench.running.cancel()
    await asyncio.wait([bench.running])
    assert bench.sampler.in_flight == 0
