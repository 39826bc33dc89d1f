"""The files of the demo: a model and its next versions, routes, a gate, events and labels, for a folder of its own.

All that follows is done with headrace's own commands in that folder, by the demo or by hand.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from headrace.pipeline.demo.replay.events import PlannedEvent
from headrace.pipeline.demo.replay.versions import MODEL, write_model, write_version

ROUTE = "photos"
"""Whose model has versions."""
CONFIG = "pipeline.yaml"
GATE = "gate.yaml"
EVENTS = "events.jsonl"
LABELS = "labels.csv"
MODELS = "models"
_PIPELINE = f"""\
name: replay-demo
routes:
  - name: text
    model: text_embedding
    match: {{modality: [TEXT]}}
    batch: {{max_records: 32}}
  - name: {ROUTE}
    model: {MODEL}
    version: "1"
    match: {{modality: [IMAGE]}}
    batch: {{max_records: 8, max_delay_seconds: 0.01}}
  - name: audio
    model: audio_vad
    match: {{modality: [AUDIO]}}
"""
_GATE = f"""\
thresholds:
  # Right labels: hardly fewer, neither on the whole nor of any camera.
  - {{metric: accuracy, route: {ROUTE}, max_drop: 0.05}}
  - {{metric: accuracy, route: {ROUTE}, slice: {{by: source}}, max_drop: 0.05}}
  # The other models are the same: so are their answers.
  - {{metric: cosine.EMBEDDING, route: text, min: 0.999}}
  - {{metric: segments_overlap, route: audio, min: 0.99}}
"""


def write_scene(folder: Path, bundled: Path, events: Iterable[PlannedEvent]) -> None:
    """Write it all into a folder that is made, or is empty.

    Args:
        folder: where.
        bundled: the repository of the bundled models.
        events: what is sent.
    """
    (folder / "media").mkdir(parents=True)
    write_model(bundled, folder / MODELS)
    for version in (2, 3):
        next_version = folder / "next" / str(version)
        next_version.parent.mkdir(exist_ok=True)
        write_version(bundled, next_version, version)
    (folder / CONFIG).write_text(_PIPELINE, "utf-8")
    (folder / GATE).write_text(_GATE, "utf-8")
    with (folder / EVENTS).open("w", encoding="utf-8") as lines, (folder / LABELS).open("w", newline="") as table:
        labels = csv.writer(table)
        labels.writerow(("id", "part", "label"))
        for event in events:
            lines.write(json.dumps(event.line(), ensure_ascii=False) + "\n")
            for part in event.parts:
                if part.text is None:
                    (folder / part.file).write_bytes(part.data)
                if part.label is not None:
                    labels.writerow((event.id, part.name, part.label))
