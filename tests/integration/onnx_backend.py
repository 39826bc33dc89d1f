"""Plays Triton's ONNX backend, which the embedded server lacks, so that the native form can be served and tested.

Becomes ``1/model.py`` of each model that has that backend. It goes by the model's own configuration and by its graph,
whose names must agree.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.inputs = [value["name"] for value in config["input"]]
        self.outputs = [value["name"] for value in config["output"]]
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert {value.name for value in self.session.get_inputs()} == set(self.inputs)
        assert {value.name for value in self.session.get_outputs()} == set(self.outputs)

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        return [self.answer(request) for request in requests]

    def answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        inputs = {name: pb.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        wanted = [name for name in self.outputs if name in request.requested_output_names()]
        values = self.session.run(wanted, inputs)
        return pb.InferenceResponse([pb.Tensor(name, value) for name, value in zip(wanted, values, strict=True)])
