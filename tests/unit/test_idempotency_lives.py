"""Whatever becomes of a partition's records, and of its owner: what repeats an id's last result has none."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fakes import VirtualLoop
from tests.unit.idempotency_bench import WINDOW_SECONDS, Fate, Life, World, settings_with
from tests.unit.processor_bench import P0
from tests.unit.strategies import examples

EVENTS = 4
seconds = st.sampled_from([0.0, 0.01, 0.3, 1.1, 4.0])
fates = st.builds(
    Fate,
    st.integers(0, EVENTS - 1),
    st.sampled_from([0.0, 1.0, 9.0, 12.0, 30.0]),
    st.sampled_from([0.0, 0.0, 0.2]),
    seconds,
    st.sampled_from(["result", "result", "result", "dead", "off"]),
)
ends = st.tuples(seconds, st.sampled_from(["revoked", "lost", "crashed", "crashed in a commit"]))


async def live(world: World, leaves: list[tuple[float, str]]) -> Life:
    """Until all is committed; after each of these seconds the partition goes, or the worker, and comes again."""
    life = Life(world)
    await life.start()

    async def arrive() -> None:
        for number, fate in enumerate(world.fates):
            await asyncio.sleep(fate.comes_seconds)
            world.send(number)
            if life.source.positions:
                life.source.poll()

    arriving = asyncio.create_task(arrive())
    for after_seconds, how in leaves:
        await asyncio.sleep(after_seconds)
        if how.startswith("crashed"):
            await life.crash(committed=how != "crashed")
            life = Life(world)
            await life.start()
            continue
        await (life.source.lose() if how == "lost" else life.source.revoke())
        await life.source.assign(P0)
    await arriving
    await life.work_off()
    await life.stop()
    return life


@settings(max_examples=examples(200), deadline=None)
@given(
    some=st.lists(fates, min_size=1, max_size=14),
    leaves=st.lists(ends, max_size=3),
    room=st.sampled_from([2, 5, 1000]),
    most=st.sampled_from([1, 3, 100]),
    commit_seconds=st.sampled_from([0.0, 0.05, 0.5]),
    refused=st.frozensets(st.integers(0, 13), max_size=2),
    max_ids=st.sampled_from([1, 2, 1000]),
    ordering=st.sampled_from(["key", "partition", "none"]),
)
def test_record_within_the_window_of_its_ids_last_result_has_none(
    some: list[Fate],
    leaves: list[tuple[float, str]],
    room: int,
    most: int,
    commit_seconds: float,
    refused: frozenset[int],
    max_ids: int,
    ordering: str,
) -> None:
    world = World(some, settings_with(max_ids, ordering=ordering), room, most, commit_seconds, refused)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        life = runner.run(live(world, leaves))
    outcomes = world.outcomes()
    for event in range(EVENTS):
        answered: list[Fate] = []
        for offset, fate in enumerate(some):
            if fate.event != event:
                continue
            near = [abs(fate.sent_seconds - each.sent_seconds) <= WINDOW_SECONDS for each in answered]
            outcome = outcomes.get(offset)
            if outcome is None:
                assert any(near), f"{offset} was dropped, and its id had no result"
            elif max_ids >= EVENTS:
                assert not any(near[-1:]), f"{offset} is a duplicate, and has an outcome of its own"
            if outcome == "result":
                answered.append(fate)
            if outcome is not None:
                assert outcome == ("dead" if fate.outcome == "result" and offset in refused else fate.outcome)
    answered_in_turn = [offset for offset, outcome in outcomes.items() if outcome == "result"]
    for key in {fate.key for fate in some}:
        turn = [offset for offset in answered_in_turn if ordering == "partition" or some[offset].key == key]
        assert ordering == "none" or (ordering == "key" and key is None) or turn == sorted(turn)
    position = world.broker.position(P0)
    assert (position.offset, position.metadata) == (len(some), "")
    assert life.budget.records == life.budget.size_bytes == 0
