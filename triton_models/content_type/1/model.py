"""content_type: CONTENT, any bytes, to LABELS [3], SCORES float32 [3] and MIME_TYPE."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray
from serving import magika
from serving.instance import Instance, column, join, row_slices
from serving.session import open_session

COUNT = 3


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        instance = Instance.of(args)
        self.knowledge = magika.Knowledge.read(instance.folder)
        self.session = open_session(instance)

    def network(self, features: NDArray[np.int32]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = self.session.run(["target_label"], {"bytes": features})[0]
        return probabilities

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "CONTENT").as_numpy() for request in requests]
        guesses = magika.identify(join(batches)[:, 0].tolist(), self.network, self.knowledge, COUNT)
        return [self.respond(guesses[rows]) for rows in row_slices(batches)]

    def respond(self, guesses: list[magika.Guess]) -> pb.InferenceResponse:
        labels = np.full((len(guesses), COUNT), b"", np.object_)
        scores = np.zeros((len(guesses), COUNT), np.float32)
        for row, guess in enumerate(guesses):
            labels[row, : len(guess.labels)] = [label.encode() for label in guess.labels]
            scores[row, : len(guess.scores)] = guess.scores
        return pb.InferenceResponse(
            [
                pb.Tensor("LABELS", labels),
                pb.Tensor("SCORES", scores),
                pb.Tensor("MIME_TYPE", column([guess.mime_type.encode() for guess in guesses])),
            ]
        )
