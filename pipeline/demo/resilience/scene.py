"""The files of the demo, for a folder of its own: routes, one that is missing, and a model that can be taken away."""

from __future__ import annotations

from pathlib import Path

from headrace.pipeline.demo.assets import Assets, to_wav
from headrace.pipeline.demo.replay.versions import MODEL, write_model

TEXT, NUMBERS, PHOTOS = "text", "numbers", "photos"
"""Routes."""
TEXT_MODEL, NUMBERS_MODEL, SOUND_MODEL = "text_embedding", "delay", "audio_vad"
PHOTO_MODEL, FALLBACK = MODEL, "image_jpeg"
"""The first is the user's own: the bundled one under another name."""
CONFIG = "pipeline.yaml"
MISSING_ROUTE = "missing-route.yaml"
MODELS = "models"
AWAY = "away"
"""Where the model's folder is while it is taken away."""
PHOTO, SOUND = "coffee.jpg", "speech.wav"
"""Samples, for who sends by hand."""
PIPELINE = f"""\
name: resilience-demo
routes:
  - name: {TEXT}                  # its model is well all the time: does anything hold it up?
    model: {TEXT_MODEL}
    match: {{modality: [TEXT]}}
  - name: {NUMBERS}               # its model fails for a while: tried again, at once and later
    model: {NUMBERS_MODEL}
    match: {{modality: [TENSOR]}}
    retries: {{max_attempts: 2, delays: [2s, 4s]}}
  - name: {PHOTOS}                # its model is taken away: another answers meanwhile
    model: {PHOTO_MODEL}
    match: {{modality: [IMAGE]}}
    breaker: {{failures: 3, open_seconds: 5, max_open_seconds: 5}}
    fallback: {{model: {FALLBACK}}}
"""
ROUTE = f"""\
  - name: sounds
    model: {SOUND_MODEL}
    match: {{modality: [AUDIO]}}
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
    (folder / CONFIG).write_text(PIPELINE, "utf-8")
    (folder / MISSING_ROUTE).write_text(ROUTE, "utf-8")
    (folder / PHOTO).write_bytes(next(photo.data for photo in data.photos if photo.name == PHOTO))
    (folder / SOUND).write_bytes(to_wav(data.speech[0].samples, data.speech[0].rate_hz))
