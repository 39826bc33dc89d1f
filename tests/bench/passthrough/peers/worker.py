"""headrace's own worker, whole but for Triton: in its place is a model in the process that gives back what it gets.

Left out are the call over gRPC and Triton's own work; the rest is what ``headrace worker`` runs: consuming, Faust's
channels, routing, batching, the completion ledger, ordering, Avro both ways, headers, transactions, metrics.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from headrace.pipeline import metrics
from headrace.pipeline.app import KafkaTritonConnections
from headrace.pipeline.config import Settings
from headrace.pipeline.hosting import run_worker
from headrace.pipeline.ports import InferCall, InferReply, ModelSignature, TensorSpec
from headrace.pipeline.settings_file import load_settings
from tests.bench.passthrough.spec import MODEL, OUTPUT, Spec

INPUT = "INPUT0"
MAX_BATCH = 4096


class Identity:
    """The bundled model ``identity`` as an ``InferenceClient``, without a server."""

    async def ready(self) -> bool:
        return True

    async def live(self) -> bool:
        return True

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        inputs, outputs = (TensorSpec(INPUT, "FP32", (-1,)),), (TensorSpec(OUTPUT, "FP32", (-1,)),)
        return ModelSignature(MODEL, "1", MAX_BATCH, inputs, outputs)

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        return InferReply("1", {OUTPUT: call.inputs[INPUT]})

    async def close(self) -> None:
        pass


def connect(settings: Settings) -> KafkaTritonConnections:
    return KafkaTritonConnections(settings, Identity())


def main() -> None:
    spec = Spec.given()
    try:
        run_worker(load_settings(Path(spec.settings["file"]), os.environ), connect)
    finally:
        records, transactions = (
            metrics.registry.get_sample_value(f"headrace_transaction_records_{each}") for each in ("sum", "count")
        )
        Path(spec.report).write_text(json.dumps({"records": records, "transactions": transactions}))


if __name__ == "__main__":
    main()
