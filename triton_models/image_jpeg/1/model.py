"""image_jpeg: ENCODED, a JPEG or PNG, to LABELS [5] and SCORES float32 [5], or to a row's ERROR.

The classifier is this model's own session, or with the parameter ``classifier`` another model of the server.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray
from serving import image
from serving.instance import Instance, column, join, row_slices

COUNT = 5


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        instance = Instance.of(args)
        cv2.setNumThreads(int(instance.parameters["threads"]))
        self.max_pixels = int(instance.parameters["max_pixels"])
        self.names = np.array(json.loads((instance.folder / "labels.json").read_text(encoding="utf-8")), np.object_)
        self.classifier = instance.parameters.get("classifier")
        if self.classifier is None:
            from serving.session import open_session  # absent where the server's own backend runs the graph

            self.session = open_session(instance)

    def classify(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32]
        if self.classifier is None:
            probabilities = self.session.run(["PROBS"], {"IMAGE": images})[0]
            return probabilities
        response = pb.InferenceRequest(
            model_name=self.classifier,
            inputs=[pb.Tensor("IMAGE", images)],
            requested_output_names=["PROBS"],
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise pb.TritonModelException(response.error().message())
        probabilities = pb.get_output_tensor_by_name(response, "PROBS").as_numpy()
        return probabilities

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "ENCODED").as_numpy() for request in requests]
        labels, scores, errors = self.label(join(batches)[:, 0])
        return [
            pb.InferenceResponse(
                [
                    pb.Tensor("LABELS", labels[rows]),
                    pb.Tensor("SCORES", scores[rows]),
                    pb.Tensor("ERROR", column(errors[rows])),
                ]
            )
            for rows in row_slices(batches)
        ]

    def label(self, encoded: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.float32], list[bytes]]:
        """A corrupt image fails alone: the others of its batch are classified."""
        labels = np.full((len(encoded), COUNT), b"", np.object_)
        scores = np.zeros((len(encoded), COUNT), np.float32)
        errors = [b""] * len(encoded)
        pixels: dict[int, NDArray[np.uint8]] = {}
        for row, content in enumerate(encoded):
            try:
                pixels[row] = image.prepare(image.decode(content, self.max_pixels))
            except image.ImageError as error:
                errors[row] = str(error).encode()
        if pixels:
            rows = list(pixels)
            classes, scores[rows] = image.top(self.classify(np.stack(list(pixels.values()))), COUNT)
            labels[rows] = [[name.encode() for name in self.names[row]] for row in classes]
        return labels, scores, errors
