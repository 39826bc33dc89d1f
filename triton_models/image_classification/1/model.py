"""image_classification: IMAGE uint8 RGB [224, 224, 3] to PROBS float32 [1000] and FEATURES float32 [1280]."""

from __future__ import annotations

import triton_python_backend_utils as pb
from serving.instance import Instance, join, row_slices
from serving.session import open_session

OUTPUTS = ["PROBS", "FEATURES"]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.session = open_session(Instance.of(args))

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "IMAGE").as_numpy() for request in requests]
        values = self.session.run(OUTPUTS, {"IMAGE": join(batches)})
        return [
            pb.InferenceResponse([pb.Tensor(name, value[rows]) for name, value in zip(OUTPUTS, values, strict=True)])
            for rows in row_slices(batches)
        ]
