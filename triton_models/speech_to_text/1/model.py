"""speech_to_text: AUDIO, WAV or raw PCM, to TEXT, SEGMENTS float32 [-1, 2] and SEGMENT_TEXTS, or to a row's ERROR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import triton_python_backend_utils as pb
from serving import audio, transcript, vad
from serving.instance import Instance, column, join, row_slices
from serving.packages import add_packages
from serving.session import open_session


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        add_packages()
        from serving.whisper import Decoder, open_network  # what it imports is in these packages

        instance = Instance.of(args)
        self.max_seconds = float(instance.parameters["max_seconds"])
        self.decoder = Decoder(open_network(instance), instance.folder, int(instance.parameters["beams"]))
        self.voice = open_session(replace(instance, kind="CPU"))  # little work, and sequential

    def network(
        self, frames: vad.Floats, hidden: vad.Floats, cell: vad.Floats
    ) -> tuple[vad.Floats, vad.Floats, vad.Floats]:
        probabilities, hidden, cell = self.voice.run(
            ["speech_probs", "hn", "cn"], {"input": frames, "h": hidden, "c": cell}
        )
        return probabilities, hidden, cell

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "AUDIO").as_numpy() for request in requests]
        contents = join(batches)[:, 0]
        errors = [b""] * len(contents)
        recordings: dict[int, tuple[vad.Floats, transcript.Spans]] = {}
        for row, content in enumerate(contents):
            try:
                samples = audio.decode(content, self.max_seconds)
            except audio.AudioError as error:
                errors[row] = str(error).encode()
            else:
                recordings[row] = samples, self.voiced(samples)
        found = transcript.transcribe(list(recordings.values()), self.decoder, self.decoder.tokens, transcript.Rules())
        segments = dict(zip(recordings, found, strict=True))
        rows = [segments.get(row, []) for row in range(len(contents))]
        return [self.respond(rows[part], errors[part]) for part in row_slices(batches)]

    def voiced(self, samples: vad.Floats) -> transcript.Spans:
        return vad.speech_segments(vad.speech_probabilities(samples, self.network), len(samples), vad.Rules())

    def respond(self, rows: list[list[transcript.Segment]], errors: list[bytes]) -> pb.InferenceResponse:
        spans = vad.pack([[(segment.start, segment.end) for segment in row] for row in rows])
        texts = np.full(spans.shape[:2], b"", np.object_)
        for row, segments in enumerate(rows):
            texts[row, : len(segments)] = [segment.text.encode() for segment in segments]
        whole = [" ".join(segment.text for segment in segments).encode() for segments in rows]
        return pb.InferenceResponse(
            [
                pb.Tensor("TEXT", column(whole)),
                pb.Tensor("SEGMENTS", spans),
                pb.Tensor("SEGMENT_TEXTS", texts),
                pb.Tensor("ERROR", column(errors)),
            ]
        )
