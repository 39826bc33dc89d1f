"""Audio parts: WAV by its header, or raw 16-bit PCM, which the model takes as 16 kHz mono little-endian."""

from __future__ import annotations

import struct

import numpy as np

from headrace.pipeline.codecs.row import media_parameter, need_bytes, poison
from headrace.pipeline.limits import MAX_WAV_CHUNKS
from headrace.pipeline.records import Part
from headrace.pipeline.routing import media_type

RAW_RATE_HZ = 16_000
_RATES_HZ = range(4_000, 384_001)
_WAV_TYPES = frozenset({"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"})
_ANY_TYPES = frozenset({"audio/*", "application/octet-stream", ""})  # taken for WAV: raw PCM has no mark of its own
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_MOST_CHANNELS = 64


def encoded(part: Part, content: bytes | str) -> bytes:
    """The audio for a model that takes WAV or raw PCM bytes.

    ``audio/pcm`` is little-endian already; ``audio/l16`` is big-endian on the wire (RFC 2586) and turned round here.

    Raises:
        PoisonError: ``EMPTY_CONTENT``, ``BAD_AUDIO``, ``CONTENT_TYPE_MISMATCH`` or ``UNSUPPORTED_CONTENT_TYPE``.
    """
    data = need_bytes(part, content, "audio")
    content_type = media_type(part.content_type)
    if content_type in ("audio/pcm", "audio/l16"):
        _check_raw(part, data)
        return np.frombuffer(data, dtype=">i2").astype("<i2").tobytes() if content_type == "audio/l16" else data
    if content_type in _WAV_TYPES or content_type in _ANY_TYPES:
        if problem := _wav_problem(data):
            raise poison(part, "BAD_AUDIO", problem)
        return data
    message = f"content type {content_type[:60]!r}: send audio/wav, audio/pcm or audio/l16"
    raise poison(part, "UNSUPPORTED_CONTENT_TYPE", message)


def _check_raw(part: Part, data: bytes) -> None:
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        raise poison(part, "CONTENT_TYPE_MISMATCH", "the content is a WAV file: send it as audio/wav")
    if len(data) % 2:
        raise poison(part, "BAD_AUDIO", f"{len(data)} bytes are not a whole number of 16-bit samples")
    for name, wanted in (("rate", str(RAW_RATE_HZ)), ("channels", "1")):
        if media_parameter(part, name) not in (None, wanted):
            raise poison(part, "BAD_AUDIO", f"raw PCM must have {name}={wanted}: resample it, or send audio/wav")


def _wav_problem(data: bytes) -> str | None:
    """What is wrong with a WAV file's chunks, None if nothing is."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return f"not a WAV file: it begins with {data[:4].hex(' ')}"
    position, have_format = 12, False
    for _ in range(MAX_WAV_CHUNKS):
        if position + 8 > len(data):
            return "the WAV file has no data chunk: it is truncated"
        name, size_bytes = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body = position + 8
        if name == b"fmt ":
            if problem := _format_problem(data[body : body + size_bytes]):
                return problem
            have_format = True
        elif name == b"data":
            if not have_format:
                return "the WAV file has no fmt chunk before its data"
            return _data_problem(size_bytes, len(data) - body)
        position = body + size_bytes + size_bytes % 2
    return f"the WAV file has more than {MAX_WAV_CHUNKS} chunks before its data"


def _format_problem(chunk: bytes) -> str | None:
    if len(chunk) < 16:
        return "the WAV file's fmt chunk is truncated"
    kind, channels, rate_hz, _, block_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = int.from_bytes(chunk[24:26], "little")
    if kind not in _BITS or bits not in _BITS[kind]:
        return f"WAV format {kind} with {bits} bits: send PCM (8 to 32 bits) or float (32 or 64 bits)"
    if not 1 <= channels <= _MOST_CHANNELS or block_bytes != channels * bits // 8:
        return f"the WAV header contradicts itself: {channels} channels of {bits} bits in blocks of {block_bytes} bytes"
    if rate_hz not in _RATES_HZ:
        return f"a sample rate of {rate_hz} Hz: between {_RATES_HZ.start} and {_RATES_HZ.stop - 1} is allowed"
    return None


def _data_problem(stated_bytes: int, there_bytes: int) -> str | None:
    if 0 in (stated_bytes, there_bytes):
        return "the WAV file holds no samples"
    if stated_bytes > there_bytes:
        return f"the WAV file is truncated: {stated_bytes} bytes of samples announced, {there_bytes} there"
    return None
