"""A model's reply, checked and cut into one output a part. Pure; see `inference` for what output names mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from headrace.pipeline.codecs.tensor import describe, serialize_bytes
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.ports import Array, InferReply, ModelSignature, TensorSpec, dtype_of
from headrace.pipeline.records import Label, NamedTensor, PartOutput, Segment, Stage, Tensor

_FLOATING = frozenset({"FP16", "FP32", "FP64"})


class _Reply:
    """A reply whose arrays have been checked as a whole: batch first, of the declared datatype and shape."""

    def __init__(self, reply: InferReply, signature: ModelSignature, rows: int) -> None:
        self.model = signature.name
        self.rows = rows
        self.arrays: dict[str, Array] = {}
        self.specs = {spec.name: spec for spec in signature.outputs}
        self.faults: dict[int, PoisonError] = {}
        for spec in signature.outputs:
            array = reply.outputs.get(spec.name)
            if array is None:
                raise self.bad(f"output {spec.name} is missing")
            self.arrays[spec.name] = self._checked(array if signature.max_batch_size > 0 else array[np.newaxis], spec)

    def bad(self, what: str) -> PoisonError:
        return PoisonError(Stage.INFER, "BAD_MODEL_OUTPUT", f"model {self.model}: {what}")

    def fault(self, row: int, error: PoisonError) -> None:
        """The first fault of a row is the one that counts."""
        self.faults.setdefault(row, error)

    def _checked(self, array: Array, spec: TensorSpec) -> Array:
        if array.ndim == 0 or array.shape[0] != self.rows:
            got = array.shape[0] if array.ndim else "no"
            raise self.bad(f"output {spec.name} has {got} rows, {self.rows} went in")
        if array.dtype != _dtype(self, spec):
            raise self.bad(f"output {spec.name} has dtype {array.dtype}, {spec.datatype} is declared")
        shape = array.shape[1:]
        if len(shape) != len(spec.shape) or any(
            want not in (-1, have) for have, want in zip(shape, spec.shape, strict=True)
        ):
            declared = describe(spec.datatype, spec.shape)
            raise self.bad(f"output {spec.name} has shape {list(shape)} a row, {declared} is declared")
        return array


def _dtype(reply: _Reply, spec: TensorSpec) -> np.dtype[np.generic]:
    try:
        return dtype_of(spec.datatype)
    except KeyError:
        raise reply.bad(f"output {spec.name} is of datatype {spec.datatype}, which is not supported") from None


def split(
    reply: InferReply, signature: ModelSignature, parts: Sequence[str], route: str
) -> list[PartOutput | PoisonError]:
    """One outcome for each row of a call, in the order of the rows.

    Args:
        reply: what the model answered.
        signature: what it declares.
        parts: the rows' part names.
        route: for the outputs.

    Returns:
        For each row its output, or a PoisonError: ``MODEL_REJECTED`` (the model's own ``ERROR``) or
        ``BAD_MODEL_OUTPUT`` (missing, wrong datatype, shape or number of rows: all rows; NaN, text that is not UTF-8
        or a span of time that runs backwards: that row).
    """
    rows = len(parts)
    try:
        checked = _Reply(reply, signature, rows)
        pieces = _Pieces(checked)
    except PoisonError as error:
        return [PoisonError(error.stage, error.code, error.message) for _ in parts]  # raised apart, so one object each
    version = reply.model_version or signature.version
    return [
        checked.faults.get(row)
        or PartOutput(
            part=part,
            route=route,
            model=signature.name,
            model_version=version,
            tensors=tensors,
            labels=labels,
            segments=segments,
            text=text,
            batch_size=rows,
        )
        for row, (part, tensors, labels, segments, text) in enumerate(
            zip(parts, pieces.tensors, pieces.labels, pieces.segments, pieces.texts, strict=True)
        )
    ]


class _Pieces:
    """What each row holds, column by column. Faults of single rows are noted on the reply."""

    def __init__(self, reply: _Reply) -> None:
        arrays = dict(reply.arrays)
        if _is(reply, "ERROR", "BYTES", 1):
            _reject(reply, arrays.pop("ERROR"))
        self.labels: Iterable[tuple[Label, ...]] = [()] * reply.rows
        self.segments: Iterable[tuple[Segment, ...]] = [()] * reply.rows
        self.texts: Iterable[str | None] = [None] * reply.rows
        if _is(reply, "LABELS", "BYTES", 1) and _is(reply, "SCORES", _FLOATING, 1):
            self.labels = _labels(reply, arrays.pop("LABELS"), arrays.pop("SCORES"))
        if _is(reply, "SEGMENTS", _FLOATING, 2):
            self.segments = _segments(reply, arrays.pop("SEGMENTS"), _Columns.taken_from(reply, arrays))
        if _is(reply, "TEXT", "BYTES", 1):
            self.texts = _texts(reply, arrays.pop("TEXT"))
        columns = [_tensors(reply, name, array) for name, array in arrays.items()]
        self.tensors: Iterable[tuple[NamedTensor, ...]] = zip(*columns, strict=True) if columns else [()] * reply.rows


def _is(reply: _Reply, name: str, datatype: str | frozenset[str], dimensions: int) -> bool:
    """Whether the model declares the output in the form that gives its name a meaning."""
    spec = reply.specs.get(name)
    if spec is None or len(spec.shape) != dimensions:
        return False
    return spec.datatype in datatype if isinstance(datatype, frozenset) else spec.datatype == datatype


def _reject(reply: _Reply, errors: Array) -> None:
    for row in np.flatnonzero(errors.astype(bool).any(axis=1)).tolist():
        message = b"; ".join(_bytes(error) for error in errors[row] if error).decode(errors="replace")
        reply.fault(row, PoisonError(Stage.INFER, "MODEL_REJECTED", f"model {reply.model}: {message[:500]}"))


def _fault_nan(reply: _Reply, name: str, array: Array) -> None:
    nan: Array = np.asarray(np.isnan(array))
    if nan.any():
        for row in np.flatnonzero(nan.reshape(reply.rows, -1).any(axis=1)).tolist():
            reply.fault(row, reply.bad(f"output {name} holds NaN"))


def _labels(reply: _Reply, names: Array, scores: Array) -> list[tuple[Label, ...]]:
    if names.shape != scores.shape:
        raise reply.bad(f"LABELS has {names.shape[1]} a row, SCORES {scores.shape[1]}")
    _fault_nan(reply, "SCORES", scores)
    texts = [_decoded(reply, row, "LABELS", values) for row, values in enumerate(names.tolist())]
    return [
        tuple(Label(name, score) for name, score in zip(row_names, row_scores, strict=True) if name)
        for row_names, row_scores in zip(texts, scores.tolist(), strict=True)
    ]


class _Columns(NamedTuple):
    """What goes with each span of ``SEGMENTS``, as far as the model gives it."""

    labels: Array | None
    scores: Array | None
    texts: Array | None

    @classmethod
    def taken_from(cls, reply: _Reply, arrays: dict[str, Array]) -> _Columns:
        labelled = _is(reply, "SEGMENT_LABELS", "BYTES", 1)
        scored = labelled and _is(reply, "SEGMENT_SCORES", _FLOATING, 1)
        return cls(
            labels=arrays.pop("SEGMENT_LABELS") if labelled else None,
            scores=arrays.pop("SEGMENT_SCORES") if scored else None,
            texts=arrays.pop("SEGMENT_TEXTS") if _is(reply, "SEGMENT_TEXTS", "BYTES", 1) else None,
        )


def _segments(reply: _Reply, spans: Array, columns: _Columns) -> list[tuple[Segment, ...]]:
    if spans.shape[2] != 2:
        raise reply.bad(f"SEGMENTS has {spans.shape[2]} columns, start and end are 2")
    for name, column in zip(("SEGMENT_LABELS", "SEGMENT_SCORES", "SEGMENT_TEXTS"), columns, strict=True):
        if column is not None and column.shape[1] != spans.shape[1]:
            raise reply.bad(f"{name} has {column.shape[1]} a row, SEGMENTS {spans.shape[1]}")
    nan: Array = np.asarray(np.isnan(spans))
    padding: Array = np.asarray(nan.all(axis=2))
    with np.errstate(invalid="ignore"):  # comparing NaN is what the padding is for
        wrong = (nan.any(axis=2) & ~padding) | (spans[..., 0] < 0) | (spans[..., 1] < spans[..., 0])
    for row in np.flatnonzero(wrong.any(axis=1)).tolist():
        reply.fault(row, reply.bad("a span in SEGMENTS is not 0 <= start <= end"))
    kept = [spans[row][~padding[row]].tolist() for row in range(reply.rows)]
    if not any(column is not None for column in columns):
        return [tuple(Segment(start, end) for start, end in row) for row in kept]
    return [_described(reply, row, spans_of_row, ~padding[row], columns) for row, spans_of_row in enumerate(kept)]


def _described(
    reply: _Reply, row: int, spans: list[list[float]], kept: Array, columns: _Columns
) -> tuple[Segment, ...]:
    """The spans of one row with their labels, scores and texts; an empty label or text is none."""
    none = [None] * len(spans)
    labels, texts = (
        none if column is None else [text or None for text in _decoded(reply, row, name, column[row][kept].tolist())]
        for name, column in (("SEGMENT_LABELS", columns.labels), ("SEGMENT_TEXTS", columns.texts))
    )
    scores: list[float | None] = [*none]
    if columns.scores is not None:
        scores = [
            None if label is None else score
            for label, score in zip(labels, columns.scores[row][kept].tolist(), strict=True)
        ]
        if any(score is not None and math.isnan(score) for score in scores):
            reply.fault(row, reply.bad("output SEGMENT_SCORES holds NaN"))
    return tuple(
        Segment(start, end, label, score, text)
        for (start, end), label, score, text in zip(spans, labels, scores, texts, strict=True)
    )


def _texts(reply: _Reply, texts: Array) -> list[str | None]:
    if texts.shape[1] != 1:
        raise reply.bad(f"TEXT has {texts.shape[1]} elements a row, 1 is declared by its meaning")
    return [_decoded(reply, row, "TEXT", values)[0] for row, values in enumerate(texts.tolist())]


def _decoded(reply: _Reply, row: int, name: str, values: list[bytes | str]) -> list[str]:
    try:
        return [_bytes(value).decode() for value in values]
    except UnicodeDecodeError:
        reply.fault(row, reply.bad(f"output {name} is not UTF-8"))
        return [""] * len(values)


def _tensors(reply: _Reply, name: str, array: Array) -> list[NamedTensor]:
    """One tensor a row; numeric rows are slices of the whole array's bytes."""
    spec = reply.specs[name]
    shape = tuple(array.shape[1:])
    if spec.datatype in _FLOATING:
        _fault_nan(reply, name, array)
    row_bytes = _bytes_rows(array) if spec.datatype == "BYTES" else _numeric_rows(array)
    return [NamedTensor(name, Tensor(spec.datatype, shape, row_bytes(row))) for row in range(reply.rows)]


def _numeric_rows(array: Array) -> Callable[[int], bytes]:
    data = array.tobytes()
    size_bytes = len(data) // len(array)
    return lambda row: data[row * size_bytes : (row + 1) * size_bytes]


def _bytes_rows(array: Array) -> Callable[[int], bytes]:
    return lambda row: serialize_bytes([_bytes(element) for element in array[row].ravel().tolist()])


def _bytes(element: bytes | str) -> bytes:
    """An element of a ``BYTES`` array: bytes, or a string from a client that decodes."""
    return element.encode() if isinstance(element, str) else bytes(element)
