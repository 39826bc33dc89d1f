"""Events out and answers in by the schema files and the registry's HTTP API alone: owes the code under test nothing."""

from __future__ import annotations

import functools
import io
import json
import struct
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro

from tests.integration.foreign_producer import register

SCHEMAS = Path(__file__).parents[2] / "schemas"
DATA = Path(__file__).parents[2] / "pipeline" / "demo" / "data"
Datum = dict[str, Any]  # an Avro record, as fastavro takes and gives it


@dataclass(frozen=True, slots=True)
class Position:
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A committed record of an output topic, decoded."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    content: Datum

    @property
    def dead(self) -> bool:
        """True for a dead letter."""
        return "stage" in self.content

    @property
    def answers(self) -> Position:
        """The request's position, as the answer states it."""
        where = self.content["provenance"]
        return Position(where["topic"], where["partition"], where["offset"])

    def header(self, name: str) -> bytes | None:
        """The last of this name."""
        return dict(self.headers).get(name)


class Registry:
    """The two requests that any client makes of a schema registry."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._schemas: dict[int, Any] = {}

    def register_request_schema(self, topic: str, schema: str | None = None) -> int:
        return register(self._url, f"{topic}-value", schema or (SCHEMAS / "inference_request.avsc").read_text("utf-8"))

    def decode(self, value: bytes) -> Datum:
        magic, schema_id = struct.unpack_from(">bI", value)
        assert magic == 0
        if schema_id not in self._schemas:
            with urllib.request.urlopen(f"{self._url}/schemas/ids/{schema_id}", timeout=10) as response:
                self._schemas[schema_id] = fastavro.parse_schema(json.loads(json.load(response)["schema"]))
        stream = io.BytesIO(value)
        stream.seek(5)
        datum = fastavro.schemaless_reader(stream, self._schemas[schema_id], None)
        assert isinstance(datum, dict)
        assert stream.read() == b""
        return datum


def encode(schema_id: int, datum: Datum, schema: str | None = None) -> bytes:
    stream = io.BytesIO()
    stream.write(struct.pack(">bI", 0, schema_id))
    fastavro.schemaless_writer(stream, _parsed(schema), datum)
    return stream.getvalue()


@functools.cache
def _parsed(schema: str | None) -> Any:
    """Of requests, if it is None."""
    return fastavro.parse_schema(json.loads(schema or (SCHEMAS / "inference_request.avsc").read_text("utf-8")))


# --- what events are made of


def event(*parts: Datum, model: str | None = None, parameters: Mapping[str, Any] | None = None) -> Datum:
    return {
        "id": str(uuid.uuid4()),
        "type": "org.example.test",
        "source": "/tests",
        "time": int(time.time() * 1000),
        "parts": list(parts),
        "parameters": dict(parameters or {}),
        "model": model,
    }


def text(content: str, name: str = "sentence") -> Datum:
    return {"name": name, "modality": "TEXT", "content_type": "text/plain", "content": content}


def image(content: bytes, name: str = "photo", content_type: str = "image/jpeg") -> Datum:
    return {"name": name, "modality": "IMAGE", "content_type": content_type, "content": content}


def audio(content: bytes, name: str = "speech") -> Datum:
    return {"name": name, "modality": "AUDIO", "content_type": "audio/wav", "content": content}


def tensor(datatype: str, shape: Sequence[int], data: bytes, name: str = "tensor") -> Datum:
    content = ("io.headrace.Tensor", {"datatype": datatype, "shape": list(shape), "data": data})
    return {"name": name, "modality": "TENSOR", "content_type": "", "content": content}


def numbers(*values: float) -> Datum:
    """A tensor that the models ``identity`` and ``delay`` give back."""
    return tensor("FP32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def delayed(delay_ms: float, *values: float) -> Datum:
    """An event whose answer takes this long."""
    return event(numbers(*values or (1.0,)), model="delay", parameters={"delay_ms": delay_ms})


def output(answer: Answer, part: int = 0) -> Datum:
    found = answer.content["outputs"][part]
    assert isinstance(found, dict)
    return found


def output_numbers(answer: Answer) -> tuple[float, ...]:
    """The only tensor of the first part's output."""
    (named,) = output(answer)["tensors"]
    data = named["tensor"]["data"]
    return struct.unpack(f"<{len(data) // 4}f", data)
