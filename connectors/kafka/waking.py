"""Waking a client's fetching threads, which do not notice that partitions were resumed.

They may sleep for up to a second first. A request to the partitions' leaders wakes them; what it asks for is of no
interest. The answer must be waited for all the same: librdkafka closes a connection on which a request has timed out.
Behind a fetch that waits for records it takes as long as that.
"""

from __future__ import annotations

import contextlib
import threading

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

TIMEOUT_SECONDS = 1.0
"""A broker that takes longer has kept its fetching thread awake."""


def wake_fetchers(consumer: Consumer) -> None:
    """Wake them, and wait for the answer."""
    _ask(consumer, _asked(consumer))


class Waker:
    """Wakes a consumer's fetching threads from a thread of its own, so that polling goes on.

    Args:
        consumer: must not be closed before this is.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._asked: list[TopicPartition] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Soon. What is asked for while an answer is waited for is one more request, however often."""
        asked = _asked(self._consumer)
        with self._changed:
            self._asked = asked
            self._changed.notify()

    def close(self) -> None:
        """Nothing is woken any more. Waits for an answer that is on its way."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked)
                if self._closed:
                    return
                asked, self._asked = self._asked, []
            _ask(self._consumer, asked)


def _asked(consumer: Consumer) -> list[TopicPartition]:
    return [TopicPartition(each.topic, each.partition, OFFSET_END) for each in consumer.assignment()]


def _ask(consumer: Consumer, asked: list[TopicPartition]) -> None:
    with contextlib.suppress(KafkaException):
        if asked:
            consumer.offsets_for_times(asked, TIMEOUT_SECONDS)
