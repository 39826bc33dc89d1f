"""Carries out what ``schedule`` decides: each fault in a thread of its own, healed when its time is over."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tests.chaos.clock import SEEN_SECONDS
from tests.chaos.load import PARTITIONS, Load
from tests.chaos.mix import FAILS_SECONDS, Fate, Storm, poison_storm, retry_storm
from tests.chaos.proxy import FaultProxy
from tests.chaos.schedule import STORM_SLOTS, Fault
from tests.chaos.stage import GROUP, Stage

log = logging.getLogger(__name__)

TERMINATE_SECONDS = 15.0
DAY_SECONDS = 86_400
LOOK_SECONDS = 0.1
OVERLOAD_TIMES = 10.0
OVERLOAD_UNANSWERED = 7_000
"""The most that an overload may leave unanswered. Until it is down to what the load may usually leave, that pauses."""
STORM_RECORDS = 200
STORM_SECONDS = 60.0
"""A storm goes on until it has sent so many of its records, for so long at most: the load may have paused meanwhile."""


class Saboteur:
    """Breaks a stage.

    Args:
        stage: which is up.
        load: which is sent to it.
    """

    def __init__(self, stage: Stage, load: Load) -> None:
        self._stage = stage
        self._load = load
        self._stopping = threading.Event()
        self._locks: dict[str, threading.Lock] = {}
        self.done: Counter[str] = Counter()
        """Faults carried out, by kind."""

    def run(self, faults: Sequence[Fault], tell: Callable[[str], None]) -> None:
        """Carry out a schedule from now on; returns when all is healed. Raises what a fault raised."""
        began = time.monotonic()
        running: list[Future[None]] = []
        with ThreadPoolExecutor(len(KIND_CALLS)) as pool:
            try:
                for fault in faults:
                    self._stopping.wait(max(0.0, began + fault.at - time.monotonic()))
                    for each in [each for each in running if each.done()]:
                        each.result()
                        running.remove(each)
                    where = f" worker {fault.slot}" if fault.slot is not None else ""
                    tell(f"{time.monotonic() - began:7.1f} s  {fault.kind}{where} for {fault.seconds:.1f} s")
                    running.append(pool.submit(self._carry_out, fault))
                for each in running:
                    each.result()
            except BaseException:  # Ctrl-C too: let none go on for its whole time
                self._stopping.set()
                raise

    def _carry_out(self, fault: Fault) -> None:
        # Recovery may take longer than the schedule allows for: the next that needs the same thing then comes later.
        with self._locks.setdefault(fault.needs, threading.Lock()):
            KIND_CALLS[fault.kind](self, fault, random.Random(fault.dice))
            self.done[fault.kind] += 1

    def _wait(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    # --- workers

    def kill_worker(self, fault: Fault, rng: random.Random) -> None:
        slot = self._slot(fault)
        self._stage.kill_worker(slot)
        self._wait(fault.seconds)
        self._stage.start_worker(slot)

    def terminate_worker(self, fault: Fault, rng: random.Random) -> None:
        slot = self._slot(fault)
        self._stage.terminate_worker(slot, TERMINATE_SECONDS)
        self._wait(fault.seconds)
        self._stage.start_worker(slot)

    def freeze_worker(self, fault: Fault, rng: random.Random) -> None:
        """Beyond the session time-out it wakes up as a zombie: others have its partitions."""
        with stopped(self._stage.workers[self._slot(fault)].pid):
            self._wait(fault.seconds)

    def stall_worker(self, fault: Fault, rng: random.Random) -> None:
        what = fault.kind.rpartition("_")[2]
        self._stage.stall_file(self._slot(fault)).write_text(f"{what} {fault.seconds:.3f}")
        self._wait(fault.seconds)

    def jump_clock(self, fault: Fault, rng: random.Random) -> None:
        self._stage.clock.jump(rng.choice((-1, 1)) * rng.uniform(60, 2 * DAY_SECONDS))
        self._wait(fault.seconds)
        self._stage.clock.jump(-self._stage.clock.offset_seconds)
        self._wait(SEEN_SECONDS)

    def storm(self, fault: Fault, rng: random.Random) -> None:
        """Workers join and leave, in order or not, before the group has come to rest."""
        end = time.monotonic() + fault.seconds
        there: set[int] = set()
        while time.monotonic() < end and not self._stopping.is_set():
            slot = rng.choice(STORM_SLOTS)
            if slot not in there:
                self._stage.start_worker(slot)
                there.add(slot)
            elif rng.random() < 0.5:
                self._stage.kill_worker(slot)
                there.discard(slot)
            else:
                self._stage.terminate_worker(slot, TERMINATE_SECONDS)
                there.discard(slot)
            self._wait(rng.uniform(0.2, 2.5))
        for slot in there:
            self._stage.terminate_worker(slot, TERMINATE_SECONDS)

    @staticmethod
    def _slot(fault: Fault) -> int:
        assert fault.slot is not None
        return fault.slot

    # --- brokers

    def kill_broker(self, fault: Fault, rng: random.Random) -> None:
        node = self._node(fault, rng)
        self._stage.cluster.kill(node)
        self._wait(fault.seconds)
        self._bring_back(node)

    def terminate_broker(self, fault: Fault, rng: random.Random) -> None:
        node = self._node(fault, rng)
        self._stage.cluster.stop(node)
        self._wait(fault.seconds)
        self._bring_back(node)

    def freeze_broker(self, fault: Fault, rng: random.Random) -> None:
        with stopped(self._stage.cluster.servers[self._node(fault, rng)].process.pid):
            self._wait(fault.seconds)
        self._stage.cluster.wait_in_sync()

    def _bring_back(self, node: int) -> None:
        self._stage.cluster.start(node)
        self._stage.cluster.wait_in_sync()  # before another may be broken: two of three must be in sync

    def _node(self, fault: Fault, rng: random.Random) -> int:
        """Which broker; where it has a part to play, that which plays it now."""
        cluster = self._stage.cluster
        partition = rng.randrange(PARTITIONS)
        slot = rng.randrange(len(self._stage.workers) - len(STORM_SLOTS))
        with contextlib.suppress(LookupError):  # between two leaders: any then
            if fault.kind == "leader_kill":
                return cluster.leader(self._stage.topics.requests, partition)
            if fault.kind == "group_coordinator_kill":
                return cluster.group_coordinator(GROUP)
            if fault.kind == "transaction_coordinator_kill":
                return cluster.transaction_coordinator(f"{GROUP}-{slot}-{rng.randrange(2)}")
        return rng.choice(sorted(cluster.servers))

    # --- the net between workers and brokers

    def break_kafka_net(self, fault: Fault, rng: random.Random) -> None:
        nodes = rng.choice(([1], [2], [3], [1, 2, 3]))
        proxies = [self._stage.cluster.proxies[node] for node in nodes]
        for proxy in proxies:
            break_net(proxy, fault.kind, rng)
        self._wait(fault.seconds)
        drop = rng.random() < 0.5
        for proxy in proxies:
            proxy.heal(drop=drop)

    # --- Triton and registry

    def break_triton_net(self, fault: Fault, rng: random.Random) -> None:
        break_net(self._stage.triton_proxy, fault.kind, rng)
        self._wait(fault.seconds)
        self._stage.triton_proxy.heal(drop=rng.random() < 0.5)

    def kill_triton(self, fault: Fault, rng: random.Random) -> None:
        self._stage.triton.kill()
        self._wait(fault.seconds)
        self._stage.triton.start()

    def kill_registry(self, fault: Fault, rng: random.Random) -> None:
        self._stage.registry.kill()
        self._wait(fault.seconds)
        self._stage.registry.start()

    # --- what is sent

    def poison_storm(self, fault: Fault, rng: random.Random) -> None:
        self._storm(poison_storm, fault.seconds, Fate.POISON)

    def retry_storm(self, fault: Fault, rng: random.Random) -> None:
        self._storm(retry_storm, fault.seconds, Fate.EXHAUSTED, Fate.PUT_OFF)
        self._wait(FAILS_SECONDS)  # nothing fails for a while any more: the clock may jump again

    def _storm(self, storm: Storm, seconds: float, *fates: Fate) -> None:
        def sent() -> int:
            return sum(self._load.fates[fate] for fate in fates)

        before, end = sent(), time.monotonic() + STORM_SECONDS
        with self._load.storm(storm):
            self._wait(seconds)
            while sent() < before + STORM_RECORDS and time.monotonic() < end and not self._stopping.is_set():
                self._wait(LOOK_SECONDS)

    def overload(self, fault: Fault, rng: random.Random) -> None:
        with self._load.overload(OVERLOAD_TIMES, OVERLOAD_UNANSWERED):
            self._wait(fault.seconds)


def break_net(proxy: FaultProxy, kind: str, rng: random.Random) -> None:
    """``cut``, ``refuse``, ``delay``, ``hang`` or ``lose_replies``, whatever stands before that in the kind."""
    if kind.endswith("_cut"):
        proxy.cut(rng.uniform(0.3, 1.0), rng)
    elif kind.endswith("_refuse"):
        proxy.refuse()
        proxy.cut()
    elif kind.endswith("_delay"):
        proxy.delay(rng.uniform(0.05, 0.4), jitter=0.1)
    elif kind.endswith("_hang"):
        proxy.hold()
    else:
        proxy.hold(requests=False, replies=True)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


KIND_CALLS: dict[str, Callable[[Saboteur, Fault, random.Random], None]] = {
    "worker_kill": Saboteur.kill_worker,
    "worker_terminate": Saboteur.terminate_worker,
    "worker_freeze": Saboteur.freeze_worker,
    "worker_freeze_short": Saboteur.freeze_worker,
    "worker_stall_loop": Saboteur.stall_worker,
    "worker_stall_poll": Saboteur.stall_worker,
    "worker_clock": Saboteur.jump_clock,
    "worker_storm": Saboteur.storm,
    "leader_kill": Saboteur.kill_broker,
    "group_coordinator_kill": Saboteur.kill_broker,
    "transaction_coordinator_kill": Saboteur.kill_broker,
    "broker_terminate": Saboteur.terminate_broker,
    "broker_freeze": Saboteur.freeze_broker,
    "kafka_cut": Saboteur.break_kafka_net,
    "kafka_refuse": Saboteur.break_kafka_net,
    "kafka_delay": Saboteur.break_kafka_net,
    "kafka_hang": Saboteur.break_kafka_net,
    "kafka_lose_replies": Saboteur.break_kafka_net,
    "triton_cut": Saboteur.break_triton_net,
    "triton_delay": Saboteur.break_triton_net,
    "triton_hang": Saboteur.break_triton_net,
    "triton_restart": Saboteur.kill_triton,
    "registry_down": Saboteur.kill_registry,
    "poison_storm": Saboteur.poison_storm,
    "retry_storm": Saboteur.retry_storm,
    "overload": Saboteur.overload,
}
