"""What a model said of each frame of a video becomes what it said of the video. Pure.

- ``labels``: the mean of each label's score over the frames, a frame that lacks it counting 0; as many as the model
  gives for a frame, best first.
- ``segments``: each frame stands for the time until the next one. Spans that follow one another with the same best
  label and the same text are one; their score is the mean of that label's scores.
- tensors: stacked, frames first. `FRAME_SECONDS` says when each frame is shown.
- One frame that fails fails the video: an answer that leaves out a part of it would look like one that does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import numpy as np

from headrace.pipeline.errors import PoisonError
from headrace.pipeline.ports import Frames
from headrace.pipeline.records import Label, NamedTensor, PartOutput, Segment, Tensor

FRAME_SECONDS = "FRAME_SECONDS"
"""Tensor FP64 [frames]: seconds from the start of the video. An output of the model by that name gives way to it."""


def merged(rows: Sequence[PartOutput | PoisonError], frames: Frames) -> PartOutput | PoisonError:
    """One outcome of all the frames of a video.

    Args:
        rows: what the model said of each frame, in their order.
        frames: as many.

    Returns:
        The output, or the first frame's error, which says which frame it is.
    """
    outputs: list[PartOutput] = []
    for number, (row, seconds) in enumerate(zip(rows, frames.seconds, strict=True), 1):
        if isinstance(row, PoisonError):
            where = f"frame {number} of {len(rows)}, at {seconds:.2f} s"
            return PoisonError(row.stage, row.code, f"{where}: {row.message}")
        outputs.append(row)
    return replace(
        outputs[0],
        tensors=(*_stacked([output.tensors for output in outputs]), _frame_seconds(frames)),
        labels=_mean([output.labels for output in outputs]),
        segments=tuple(_spans(outputs, frames)),
        text=None,  # a text of one frame belongs to its span
    )


def _mean(frames: Sequence[Sequence[Label]]) -> tuple[Label, ...]:
    sums: defaultdict[str, float] = defaultdict(float)
    for labels in frames:
        for label in labels:
            sums[label.name] += label.score
    means = [Label(name, total / len(frames)) for name, total in sums.items()]
    return tuple(sorted(means, key=lambda label: -label.score)[: max(map(len, frames))])


def _spans(outputs: Sequence[PartOutput], frames: Frames) -> Iterator[Segment]:
    ends = (*frames.seconds[1:], frames.end_seconds)
    found = [
        ((best.name if best else None, output.text), (start, end, best.score if best else None))
        for output, start, end in zip(outputs, frames.seconds, ends, strict=True)
        for best in [max(output.labels, key=lambda label: label.score, default=None)]
    ]
    for (label, text), group in groupby(found, key=itemgetter(0)):
        spans = [span for _, span in group]
        if label is not None or text is not None:
            scores = [score for _, _, score in spans if score is not None]
            mean = sum(scores) / len(scores) if scores else None
            yield Segment(spans[0][0], spans[-1][1], label, mean, text)


def _stacked(frames: Sequence[Sequence[NamedTensor]]) -> Iterator[NamedTensor]:
    """Every row of a reply has the same outputs, in the same order, of the same datatypes and shapes."""
    for column in zip(*frames, strict=True):
        first = column[0]
        if first.name != FRAME_SECONDS:
            data = b"".join(each.tensor.data for each in column)
            yield NamedTensor(first.name, Tensor(first.tensor.datatype, (len(column), *first.tensor.shape), data))


def _frame_seconds(frames: Frames) -> NamedTensor:
    seconds = np.array(frames.seconds, "<f8")
    return NamedTensor(FRAME_SECONDS, Tensor("FP64", (len(seconds),), seconds.tobytes()))
