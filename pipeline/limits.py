"""Bounds on one event: nothing that a sender can write may cost much more than its bytes. docs/contracts.md lists them.

They are far above what an honest event needs. The models in ``triton_models`` repeat those that they enforce too: they
run without this package.
"""

from __future__ import annotations

from typing import Final

# What a schema cannot say, checked where a record becomes an event.
MAX_PARTS: Final = 256
MAX_PARAMETERS: Final = 256  # each part's call carries them all
MAX_CONTENT_TYPE_CHARACTERS: Final = 1_024
MAX_VERSION_DIGITS: Final = 18  # fits the 64 bits in which Triton counts versions
MAX_TENSOR_DIMENSIONS: Final = 32
MAX_HOPS: Final = 16
"""Stages that one event may lead through by ``also_to``: a circle of routes must end."""

# What a part's content may be, checked where it becomes a row of a model's input.
MAX_TEXT_BYTES: Final = 1024 * 1024
"""Far above any model's context window: longer text would be cut silently by the tokenizer, after costing its time."""
MAX_IMAGE_SIDE_PIXELS: Final = 16_384
MAX_IMAGE_PIXELS: Final = 64 * 1024 * 1024
"""A small file can unpack to gigabytes: 64 megapixels are 192 MB decoded, all that one row may cost the model."""
MAX_JPEG_SEGMENTS: Final = 10_000
MAX_JPEG_SCANS: Final = 64
"""Each scan of a progressive JPEG goes over all pixels, and a few bytes make one. Encoders write about ten."""
MAX_WAV_CHUNKS: Final = 10_000
MAX_MP4_BOXES: Final = 10_000
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Of all frames of one video, encoded. They are in the worker's memory until the model has answered."""
MAX_DECODER_BYTES: Final = 1024 * 1024 * 1024
"""Address space that decoding may take beside what the process needs to run at all."""

# What a writer's schema may be, checked once a schema.
MAX_SCHEMA_CHARACTERS: Final = 256 * 1024
MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_NODES: Final = 10_000
MAX_VALUES_PER_BYTE: Final = 2
"""In arrays and maps, which may be as long as the record. A value takes up to 200 bytes of memory: at 4 a byte, a
record of 8 MiB takes 5 GB."""
