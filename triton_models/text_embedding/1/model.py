"""text_embedding: TEXT, UTF-8, to EMBEDDING float32 [384]."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray
from serving.instance import Instance, join, row_slices
from serving.session import open_session
from serving.text import TextTokenizer, embed


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        instance = Instance.of(args)
        self.tokenizer = TextTokenizer(instance.folder / "tokenizer.json", int(instance.parameters["max_tokens"]))
        self.session = open_session(instance)

    def encode(self, tokens: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = self.session.run(["EMBEDDING"], tokens)[0]
        return embedding

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        batches = [pb.get_input_tensor_by_name(request, "TEXT").as_numpy() for request in requests]
        embeddings = embed(join(batches)[:, 0].tolist(), self.tokenizer, self.encode)
        return [pb.InferenceResponse([pb.Tensor("EMBEDDING", embeddings[rows])]) for rows in row_slices(batches)]
