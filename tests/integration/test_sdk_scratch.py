from __future__ import annotations
import asyncio, threading, time
from collections.abc import Callable
from pathlib import Path
import pytest
from headrace import *
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.setup import topic_specs
from tests.integration.harness import Scene
from tests.integration.sdk_scene import Writer, photo, sdk_settings

@pytest.fixture
def settings(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Settings:
    with Scene(stack, names("w"), tmp_path):
        settings = sdk_settings(tmp_path, stack)
    ensure_topics(stack.bootstrap_servers, topic_specs(settings))
    return settings

async def test_async_close(settings):
    consumer = ResultConsumer(settings)
    threading.Timer(0.6, consumer.close).start()
    async def it():
        return [r async for r in consumer]
    async with asyncio.timeout(8):
        assert await it() == []

async def test_async_after_close(settings):
    consumer = ResultConsumer(settings)
    assert await consumer.receive_async(0.1) is None
    consumer.close()
    with pytest.raises(ClosedError):
        async with asyncio.timeout(5):
            await consumer.receive_async()

def test_close_race(settings):
    lost = total = 0
    import sys; sys.setswitchinterval(1e-5)
    for _ in range(60):
        p = EventProducer(settings, linger_seconds=0.0)
        futures = []
        ev = event("words")
        def send():
            try:
                while True:
                    futures.append(p.send(ev))
            except ClosedError: pass
        ts = [threading.Thread(target=send) for _ in range(6)]
        for t in ts: t.start()
        time.sleep(0.03)
        p.close()
        for t in ts: t.join(10)
        total += len(futures); lost += sum(not f.done() for f in futures)
    print("LOST", lost, total)
    assert lost == 0

@pytest.mark.parametrize("kw", [dict(topics="inference.results"), dict(topics=[]), dict(topics=2), dict(topics=1,group="g9")])
def test_consumer_args(settings, kw):
    if kw.get("topics") == 2: kw["topics"] = [settings.topics.results]*2
    if kw.get("topics") == 1: kw["topics"] = [settings.topics.results]*2
    Writer(settings).results(1)
    with ResultConsumer(settings, **kw) as c:
        print(kw, c.receive(5), c.receive(3))

@pytest.mark.parametrize("kw", [dict(delivery_timeout_seconds=0), dict(delivery_timeout_seconds=float("inf")), dict(delivery_timeout_seconds=-1),dict(linger_seconds=60), dict(linger_seconds=-1), dict(max_queued_events=0), dict(max_queued_events=-1), dict(max_queued_bytes=-1), dict(topic="no topic"), dict(topic="a/b"),dict(max_queued_events=10**7)])
def test_producer_args(settings, kw):
    try:
        p = EventProducer(settings, **kw)
    except BaseException as e:
        print("CTOR", kw, repr(e)[:200]); return
    try:
        with p:
            f = p.send(event("a"), queue_seconds=5)
        print("SENT", kw, f.result(5))
    except BaseException as e:
        print("SEND", kw, repr(e)[:300])
