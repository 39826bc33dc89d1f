"""identity: OUTPUT0 is INPUT0."""

from __future__ import annotations

import triton_python_backend_utils as pb
from serving.instance import Instance


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        Instance.of(args)

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        inputs = [pb.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("OUTPUT0", rows)]) for rows in inputs]
