"""A result as a dictionary of its schema's fields, for fastavro, which is what our own writer is compared with."""

from __future__ import annotations

from typing import Any

from headrace.pipeline.records import InferenceResult, PartOutput, Segment

Fields = dict[str, Any]


def result_fields(result: InferenceResult) -> Fields:
    """Every field of the current schema."""
    timings, provenance = result.timings, result.provenance
    return {
        "request_id": result.request_id,
        "status": result.status,
        "outputs": [_output_fields(output) for output in result.outputs],
        "provenance": {
            "topic": provenance.topic,
            "partition": provenance.partition,
            "offset": provenance.offset,
            "timestamp": provenance.timestamp_ms,
        },
        "timings": {
            "decode_ms": timings.decode_ms,
            "waiting_ms": timings.waiting_ms,
            "inference_ms": timings.inference_ms,
        },
        "attempt": result.attempt,
        "worker": result.worker,
        "completed": result.completed_ms,
    }


def _output_fields(output: PartOutput) -> Fields:
    return {
        "part": output.part,
        "route": output.route,
        "model": output.model,
        "model_version": output.model_version,
        "tensors": [
            {"name": name, "tensor": {"datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.data}}
            for name, tensor in ((each.name, each.tensor) for each in output.tensors)
        ],
        "labels": [{"name": label.name, "score": label.score} for label in output.labels],
        "segments": [_segment_fields(segment) for segment in output.segments],
        "text": output.text,
        "batch_size": output.batch_size,
    }


def _segment_fields(segment: Segment) -> Fields:
    return {
        "start_seconds": segment.start_seconds,
        "end_seconds": segment.end_seconds,
        "label": segment.label,
        "score": segment.score,
        "text": segment.text,
    }
