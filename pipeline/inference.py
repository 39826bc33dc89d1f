"""The inference step around one call: parts become rows, rows a call, the reply one output a part. Pure.

What a model must look like. It has one input. An input of one ``BYTES`` element a row takes text or an encoded file;
any other takes a tensor part of its datatype and shape. Outputs with these names mean something, all others are handed
on as tensors:

- ``ERROR`` (``BYTES`` [1]): not empty means that the model rejects that row, and that row alone.
- ``LABELS`` (``BYTES`` [k]) with ``SCORES`` (floating [k]): labels with scores; an empty label is padding.
- ``SEGMENTS`` (floating [n, 2]): start and end in seconds; rows of NaN are padding.
- ``SEGMENT_TEXTS`` (``BYTES`` [n]), ``SEGMENT_LABELS`` (``BYTES`` [n]) and, with the latter, ``SEGMENT_SCORES``
  (floating [n]): what is in each span of ``SEGMENTS``; an empty text or label is none.
- ``TEXT`` (``BYTES`` [1]): UTF-8 text.

A video whose frames are sampled is several rows of one call, one a frame; see `timeline` for what their answers become.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, cast

import numpy as np

from headrace.pipeline.codecs import takes_anything, to_row
from headrace.pipeline.config_video import Sampling, VideoSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.outputs import split
from headrace.pipeline.ports import (
    Array,
    Frames,
    InferCall,
    InferReply,
    ModelSignature,
    SamplingPlan,
    TensorSpec,
    dtype_of,
)
from headrace.pipeline.records import Modality, Parameter, Part, PartOutput, Stage
from headrace.pipeline.timeline import merged

__all__ = [
    "Bucket",
    "Prepared",
    "answers",
    "call_of",
    "data_input",
    "is_sampled",
    "max_rows",
    "plan_of",
    "prepare",
    "split",
    "stack",
    "with_frames",
]

_frames_of = attrgetter("frames")
_TypedParameter = tuple[str, str, Parameter]


class Bucket(NamedTuple):
    """What rows must have in common to share an infer call.

    ``parameters`` are sorted and carry their type's name, because ``1 == 1.0 == True`` to Python but not to a model.
    """

    version: str
    shape: tuple[int, ...]
    parameters: tuple[_TypedParameter, ...]


class Prepared(NamedTuple):
    """A part as a row of its model's input, checked (see `codecs.row.Row`), or a video as one row a frame.

    Attributes:
        row: the row's value; for a video its frames, one element a row.
        weight_bytes: size of the content.
        bucket: which rows may share a call with it.
        frames: of a video; they are in `row` as well.
    """

    row: bytes | tuple[bytes, ...]
    weight_bytes: int
    bucket: Bucket
    frames: Frames | None = None

    @property
    def rows(self) -> int:
        return 1 if self.frames is None else len(self.frames.images)


def data_input(signature: ModelSignature) -> TensorSpec:
    """The model's one input.

    Raises:
        PoisonError: ``UNSUPPORTED_MODEL`` if it has none or several.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs) or "none"
        message = f"model {signature.name} must have one input to be served from a topic; it has: {names}"
        raise PoisonError(Stage.PREPARE, "UNSUPPORTED_MODEL", message)
    return signature.inputs[0]


def max_rows(signature: ModelSignature) -> int:
    """Most rows in one call of this model: 1 if it does not batch."""
    return max(1, signature.max_batch_size)


def prepare(
    part: Part, signature: ModelSignature, version: str = "", parameters: Mapping[str, Parameter] | None = None
) -> Prepared:
    """Check a part against its model's input and make a row of it.

    Args:
        part: what the route's model is to answer.
        signature: of the model (and version) that the call will go to.
        version: the assignment's version, passed on to the call.
        parameters: the event's parameters, passed on to the call.

    Raises:
        PoisonError: stage ``prepare``; this record can never be inferred.
    """
    row = to_row(part, data_input(signature))
    typed = (
        tuple(sorted((name, type(value).__name__, value) for name, value in parameters.items())) if parameters else ()
    )
    return Prepared(row.value, row.weight_bytes, Bucket(version, row.shape, typed))


def is_sampled(part: Part, signature: ModelSignature, video: VideoSettings) -> bool:
    """Whether a part that was prepared goes to its model as frames rather than as the row that it was made."""
    return (
        part.modality is Modality.VIDEO
        and isinstance(part.content, bytes)
        and video.sample is not Sampling.NONE
        and not takes_anything(data_input(signature))
    )


def plan_of(video: VideoSettings, max_frames: int) -> SamplingPlan:
    """How a route's videos are sampled, for a model and batch that take so many frames in one call."""
    return SamplingPlan(**{**video.model_dump(), "max_frames": min(video.max_frames, max_frames)})


def with_frames(video: Prepared, frames: Frames) -> Prepared:
    """A video that was prepared, with its frames in place of itself."""
    return video._replace(row=frames.images, weight_bytes=sum(map(len, frames.images)), frames=frames)


def call_of(rows: Sequence[Prepared], signature: ModelSignature) -> InferCall:
    """The call for parts of one bucket, with one or more rows in all and at most `max_rows`."""
    bucket = rows[0].bucket
    return InferCall(
        model=signature.name,
        version=bucket.version,
        inputs=stack(rows, signature),
        parameters={name: value for name, _, value in bucket.parameters},
    )


def stack(rows: Sequence[Prepared], signature: ModelSignature) -> dict[str, Array]:
    """The model's input for parts of one bucket, in their order.

    The batch is the first dimension, unless the model does not batch (then there must be one row). Numeric arrays are
    read-only; ``BYTES`` arrays are of dtype object.
    """
    spec = data_input(signature)
    shape = rows[0].bucket.shape
    if spec.datatype == "BYTES":
        elements = [element for row in rows for element in row.row]
        array = np.empty(len(elements), dtype=np.object_)
        array[:] = elements
        count = len(elements) // math.prod(shape)  # a video has as many as it has frames
    else:
        chunks = cast("list[bytes]", [row.row for row in rows])  # a numeric datatype is carried as bytes
        array = np.frombuffer(chunks[0] if len(chunks) == 1 else b"".join(chunks), dtype=dtype_of(spec.datatype))
        count = len(rows)
    if signature.max_batch_size > 0:
        shape = (count, *shape)
    elif count != 1:
        raise ValueError(f"model {signature.name} does not batch: one row a call, not {count}")
    return {spec.name: array.reshape(shape)}


def answers(
    reply: InferReply, signature: ModelSignature, parts: Sequence[str], prepared: Sequence[Prepared], route: str
) -> list[PartOutput | PoisonError]:
    """One outcome for each part of a call: `split`, and the rows of each video made one.

    Args:
        reply: what the model answered.
        signature: what it declares.
        parts: names.
        prepared: what the call was made of, in the order of the parts.
        route: for the outputs.
    """
    if not any(map(_frames_of, prepared)):
        return split(reply, signature, parts, route)
    names = [name for name, each in zip(parts, prepared, strict=True) for _ in range(each.rows)]
    rows = iter(split(reply, signature, names, route))
    return [next(rows) if each.frames is None else merged([*islice(rows, each.rows)], each.frames) for each in prepared]
