"""Checks on what a part carries, before it costs an inference: one module a modality.

Decoding proper (JPEG, WAV) happens in the model; the worker reads headers only. Videos are sampled in processes of
their own (see `sampling`), once they are found to be MP4s here.
"""

from __future__ import annotations

from headrace.pipeline.codecs import tensor
from headrace.pipeline.codecs.audio import encoded as encoded_audio
from headrace.pipeline.codecs.image import encoded as encoded_image
from headrace.pipeline.codecs.row import Row, poison
from headrace.pipeline.codecs.text import encoded as encoded_text
from headrace.pipeline.codecs.video import encoded as encoded_video
from headrace.pipeline.ports import TensorSpec
from headrace.pipeline.records import Modality, Part, Reference, Tensor

__all__ = ["Row", "takes_anything", "to_row"]

_ENCODED = {
    Modality.TEXT: encoded_text,
    Modality.IMAGE: encoded_image,
    Modality.AUDIO: encoded_audio,
    Modality.VIDEO: encoded_video,
}

_ANYTHING = "CONTENT"
"""An input of this name takes bytes as they are, of any kind and modality, unchecked."""


def takes_anything(spec: TensorSpec) -> bool:
    """Whether an input takes bytes whatever they are, rather than what some modality can be decoded from."""
    return spec.name == _ANYTHING


def to_row(part: Part, spec: TensorSpec) -> Row:
    """The row of a model's input that a part becomes.

    A tensor goes to any input of its datatype and shape, whatever the part's modality. Text and encoded bytes go to
    an input of one ``BYTES`` element; they are checked first unless its name is ``CONTENT``.

    Raises:
        PoisonError: stage ``prepare``; the code says which rule is broken.
    """
    content = part.content
    if isinstance(content, Tensor):
        return tensor.to_row(part.name, content, spec)
    if isinstance(content, Reference):
        message = "its content is a reference to another store, which this version does not fetch: send the content"
        raise poison(part, "REFERENCE_UNSUPPORTED", message)
    if part.modality is Modality.TENSOR:
        raise poison(part, "BAD_CONTENT", "modality TENSOR needs a tensor (datatype, shape, data) as its content")
    if not tensor.is_single_bytes(spec):
        wanted = tensor.describe(spec.datatype, spec.shape)
        raise poison(
            part,
            "MODALITY_MISMATCH",
            f"the model's input {spec.name} takes {wanted}, not {part.modality} content: send a tensor",
        )
    if takes_anything(spec):
        data = content if isinstance(content, bytes) else content.encode(errors="replace")
    else:
        data = _ENCODED[part.modality](part, content)
    return Row((data,), len(data), tuple(1 for _ in spec.shape))
