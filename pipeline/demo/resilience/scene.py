"""The files of the demo, for a folder of its own: routes, one of which is missing, and models that fail."""

from __future__ import annotations

from pathlib import Path

from headrace.pipeline.demo.assets import Assets, to_wav
from headrace.pipeline.demo.replay.versions import MODEL, write_model

TEXT, AMOUNTS, PHOTOS = "text", "amounts", "photos"
"""Routes."""
TEXT_MODEL, AMOUNT_MODEL, SOUND_MODEL = "text_embedding", "exchange", "audio_vad"
"""The second is the demo's own: it needs a file."""
PHOTO_MODEL, FALLBACK = MODEL, "image_jpeg"
"""The first is the user's own: the bundled one under another name."""
DELAYS = ("2s", "8s")
RATES = "rates.json"
"""The file."""
CONFIG = "pipeline.yaml"
MISSING_ROUTE = "missing-route.yaml"
MODELS = "models"
AWAY = "away"
"""The folder of what is taken away."""
PHOTO, SOUND = "coffee.jpg", "speech.wav"
"""Samples, for who sends by hand."""
PIPELINE = f"""\
name: resilience-demo
routes:
  - name: {TEXT}                  # its model is well all the time: does anything hold it up?
    model: {TEXT_MODEL}
    match: {{modality: [TEXT]}}
  - name: {AMOUNTS}               # its model fails for a while: tried again, at once and later
    model: {AMOUNT_MODEL}
    match: {{modality: [TENSOR]}}
    batch: {{max_records: 1}}
    retries: {{max_attempts: 2, delays: [{", ".join(DELAYS)}]}}
  - name: {PHOTOS}                # its model is taken away: another answers meanwhile
    model: {PHOTO_MODEL}
    match: {{modality: [IMAGE]}}
    breaker: {{failures: 3, open_seconds: 8, max_open_seconds: 8}}
    fallback: {{model: {FALLBACK}}}
"""
ROUTE = f"""\
  - name: sounds
    model: {SOUND_MODEL}
    match: {{modality: [AUDIO]}}
"""
_EXCHANGE_CONFIG = f"""\
name: "{AMOUNT_MODEL}"
backend: "python"
max_batch_size: 64
input  [ {{ name: "INPUT0"  data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }} ]
"""
_EXCHANGE = f'''\
"""Euros to dollars, at a rate that somebody else writes to a file. Without it there is no answer."""

import json
from pathlib import Path

import triton_python_backend_utils as pb

RATES = Path(__file__).resolve().parents[3] / "{RATES}"  # beside the model repository


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            rate = json.loads(RATES.read_text())["USD"]
        except OSError as error:
            return pb.InferenceResponse(error=pb.TritonError(f"no rate: {{error.strerror}}", pb.TritonError.INTERNAL))
        euros = pb.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        return pb.InferenceResponse([pb.Tensor("OUTPUT0", euros * euros.dtype.type(rate))])
'''
_RATES = """{"USD": 1.16}
"""


def write_scene(folder: Path, bundled: Path, data: Assets) -> None:
    """Write it all into a folder that is made, or is empty.

    Args:
        folder: where.
        bundled: the repository of the bundled models.
        data: what the samples of a photo and a sound are taken from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_model(bundled, folder / MODELS)
    version = folder / MODELS / AMOUNT_MODEL / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(_EXCHANGE_CONFIG, "utf-8")
    (version / "model.py").write_text(_EXCHANGE, "utf-8")
    (folder / RATES).write_text(_RATES, "utf-8")
    (folder / AWAY).mkdir()
    (folder / CONFIG).write_text(PIPELINE, "utf-8")
    (folder / MISSING_ROUTE).write_text(ROUTE, "utf-8")
    (folder / PHOTO).write_bytes(next(photo.data for photo in data.photos if photo.name == PHOTO))
    (folder / SOUND).write_bytes(to_wav(data.speech[0].samples, data.speech[0].rate_hz))
