"""affine: Y = X W + b, with small fractions that float32 holds exactly, so that a checker can be exact as well."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb
from serving.instance import Instance, join, row_slices


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        Instance.of(args)
        row, column = np.indices((64, 16))
        self.weight = (((7 * row + 3 * column) % 11 - 5) / 8).astype(np.float32)
        self.bias = (np.arange(16) / 4).astype(np.float32)

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        y = join(batches) @ self.weight + self.bias
        return [pb.InferenceResponse([pb.Tensor("Y", y[rows])]) for rows in row_slices(batches)]
