"""Sends one record whose header name is not UTF-8, as clients of other languages can: a program of its own.

Usage: ``AIOKAFKA_NO_EXTENSIONS=1 python raw_header_producer.py BOOTSTRAP_SERVERS TOPIC``, the value on stdin; prints
``PARTITION OFFSET``. Only aiokafka written in Python lets a header's name through unchecked.
"""

import asyncio
import sys

from aiokafka import AIOKafkaProducer


class RawName(str):
    """A header name that is encoded as bytes of no encoding."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


async def send(bootstrap_servers: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
        place = await producer.send_and_wait(topic, value, headers=[(RawName("raw"), b"1")])
    print(place.partition, place.offset)


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
