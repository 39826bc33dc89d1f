"""audio_vad: AUDIO, WAV or raw PCM, to SEGMENTS float32 [-1, 2] and SPEECH_SECONDS, or to a row's ERROR.

The network is this model's own session, or with the parameter ``network`` another model of the server.
"""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb
from serving import audio, vad
from serving.instance import Instance, column, join, row_slices

OUTPUTS = ["speech_probs", "hn", "cn"]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        instance = Instance.of(args)
        self.max_seconds = float(instance.parameters["max_seconds"])
        self.rules = vad.Rules()
        self.model = instance.parameters.get("network")
        if self.model is None:
            from serving.session import open_session  # absent where the server's own backend runs the graph

            self.session = open_session(instance)

    def network(
        self, frames: vad.Floats, hidden: vad.Floats, cell: vad.Floats
    ) -> tuple[vad.Floats, vad.Floats, vad.Floats]:
        inputs = {"input": frames, "h": hidden, "c": cell}
        if self.model is None:
            probabilities, hidden, cell = self.session.run(OUTPUTS, inputs)
            return probabilities, hidden, cell
        response = pb.InferenceRequest(
            model_name=self.model,
            inputs=[pb.Tensor(name, value) for name, value in inputs.items()],
            requested_output_names=OUTPUTS,
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise pb.TritonModelException(response.error().message())
        probabilities, hidden, cell = (pb.get_output_tensor_by_name(response, name).as_numpy() for name in OUTPUTS)
        return probabilities, hidden, cell

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "AUDIO").as_numpy() for request in requests]
        rows = [self.segment(content) for content in join(batches)[:, 0]]
        return [self.respond(rows[part]) for part in row_slices(batches)]

    def segment(self, content: bytes) -> tuple[list[tuple[float, float]], bytes]:
        """Segments, or what is wrong with the recording. One at a time: no more than one is in memory decoded."""
        try:
            samples = audio.decode(content, self.max_seconds)
        except audio.AudioError as error:
            return [], str(error).encode()
        return vad.speech_segments(vad.speech_probabilities(samples, self.network), len(samples), self.rules), b""

    def respond(self, rows: list[tuple[list[tuple[float, float]], bytes]]) -> pb.InferenceResponse:
        speech = [np.nan if error else sum(end - start for start, end in segments) for segments, error in rows]
        return pb.InferenceResponse(
            [
                pb.Tensor("SEGMENTS", vad.pack([segments for segments, _ in rows])),
                pb.Tensor("SPEECH_SECONDS", np.array(speech, np.float32).reshape(-1, 1)),
                pb.Tensor("ERROR", column([error for _, error in rows])),
            ]
        )
