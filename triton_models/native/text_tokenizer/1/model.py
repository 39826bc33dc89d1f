"""text_tokenizer: TEXT, UTF-8, to the encoder's three inputs, int64 [T]."""

from __future__ import annotations

import triton_python_backend_utils as pb
from serving.instance import Instance
from serving.text import TextTokenizer

OUTPUTS = {"INPUT_IDS": "input_ids", "ATTENTION_MASK": "attention_mask", "TOKEN_TYPE_IDS": "token_type_ids"}


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        instance = Instance.of(args)
        limit, multiple = (int(instance.parameters[name]) for name in ("max_tokens", "multiple"))
        self.tokenizer = TextTokenizer(instance.folder / "tokenizer.json", limit, multiple)

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        return [self.answer(request) for request in requests]

    def answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        tokens = self.tokenizer.encode(pb.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0].tolist())
        return pb.InferenceResponse([pb.Tensor(name, tokens[key]) for name, key in OUTPUTS.items()])
