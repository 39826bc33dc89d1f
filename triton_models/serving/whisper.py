"""Whisper in CTranslate2. Apart, because only one model needs these packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

from .instance import Instance
from .mel import Floats
from .transcript import Decoded, Tokens, mean_logprob

_START, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
_MAX_TOKENS = 224
"""Of a window, as in Whisper: half of what its decoder can hold."""
_NO_REPEAT = 3
_WINDOWS_A_CALL = 4
"""Bounds memory, which a window of beams takes 70 MB of; on a CPU more at a time are no faster."""


def open_network(instance: Instance) -> ctranslate2.models.Whisper:
    """The network on the instance's device.

    Raises:
        RuntimeError: if it should run on a GPU that cannot be used.
    """
    threads, compute = int(instance.parameters["threads"]), instance.parameters["compute_type"]
    path = str(instance.folder)
    if instance.kind != "GPU":
        return ctranslate2.models.Whisper(path, device="cpu", compute_type=compute, intra_threads=threads)
    import onnxruntime  # its package finds the CUDA libraries that came as packages

    onnxruntime.preload_dlls()
    return ctranslate2.models.Whisper(path, device="cuda", device_index=instance.device_id, compute_type="float16")


class Decoder:
    """Windows to tokens. Greedy with ``beams`` 1."""

    def __init__(self, network: ctranslate2.models.Whisper, folder: Path, beams: int) -> None:
        self._network = network
        self._beams = beams
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._prompt = [tokenizer.token_to_id(_START)]
        self.tokens = Tokens(
            first_timestamp=tokenizer.token_to_id(_NO_TIMESTAMPS) + 1,
            text=lambda ids: str(tokenizer.decode(list(ids))),
        )

    def __call__(self, windows: Floats, without_repetition: bool) -> Sequence[Decoded]:
        """Float32 [N, 80, 3000] to N answers."""
        answers: list[Decoded] = []
        for start in range(0, len(windows), _WINDOWS_A_CALL):
            answers += self._generate(windows[start : start + _WINDOWS_A_CALL], without_repetition)
        return answers

    def _generate(self, windows: Floats, without_repetition: bool) -> list[Decoded]:
        found = self._network.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(windows)),
            [self._prompt] * len(windows),
            beam_size=self._beams,
            max_length=_MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            no_repeat_ngram_size=_NO_REPEAT if without_repetition else 0,
        )
        return [
            Decoded(tuple(tokens), mean_logprob(one.scores[0], len(tokens)), one.no_speech_prob)
            for one in found
            for tokens in one.sequences_ids[:1]
        ]
