"""Texts to tokens to sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Encoder = Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]]

# Texts of very different length share no sub-batch: its padding is work thrown away.
_SUB_BATCH = 32
# Far more than 256 tokens of any script; bounds what tokenising a huge text costs.
_MAX_CHARACTERS = 65_536


class TextTokenizer:
    """WordPiece, cut to ``max_tokens``, padded to the longest of a batch (and to a multiple of ``multiple``)."""

    def __init__(self, path: Path, max_tokens: int, multiple: int | None = None) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(pad_to_multiple_of=multiple)

    def encode(self, texts: Sequence[bytes]) -> dict[str, NDArray[np.int64]]:
        """``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [N, T]; what is no UTF-8 is replaced."""
        plain = [text[: 4 * _MAX_CHARACTERS].decode("utf-8", "replace")[:_MAX_CHARACTERS] for text in texts]
        encodings = self._tokenizer.encode_batch(plain)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def embed(texts: Sequence[bytes], tokenizer: TextTokenizer, encoder: Encoder) -> NDArray[np.float32]:
    """Unit-length float32 [N, 384], in the order of ``texts``."""
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    embeddings: NDArray[np.float32] | None = None
    for start in range(0, len(by_length), _SUB_BATCH):
        rows = by_length[start : start + _SUB_BATCH]
        part = encoder(tokenizer.encode([texts[row] for row in rows]))
        if embeddings is None:
            embeddings = np.empty((len(texts), part.shape[1]), np.float32)
        embeddings[rows] = part
    if embeddings is None:
        raise ValueError("no texts")
    return embeddings
