"""all-MiniLM-L6-v2 with its pooling in the graph: tokens in, a unit-length sentence embedding out.

Mean pooling over the attended tokens and normalisation are what the model was trained with (its sentence-transformers
card); inside the graph they run where the model runs, and 384 numbers a text leave the device instead of 384 a token.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

SHA256 = "d821ab5235347791b4b01203a076f5de74922f9e1dd8539a6bf98cb77ece8765"
DIMENSIONS = 384
MAX_TOKENS = 256
_HIDDEN = "last_hidden_state"


def build(encoder: bytes) -> bytes:
    """input_ids, attention_mask, token_type_ids int64 [N, T] to EMBEDDING float32 [N, 384]."""
    model = onnx.load_from_string(encoder)
    graph = model.graph
    graph.initializer.append(helper.make_tensor("pool_axis", TensorProto.INT64, [1], [1]))
    graph.initializer.append(helper.make_tensor("mask_axis", TensorProto.INT64, [1], [2]))
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["mask_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask_float", "mask_axis"], ["mask_column"]),
            helper.make_node("Mul", [_HIDDEN, "mask_column"], ["attended"]),
            helper.make_node("ReduceSum", ["attended", "pool_axis"], ["pool_sum"], keepdims=0),
            helper.make_node("ReduceSum", ["mask_float", "pool_axis"], ["pool_count"], keepdims=1),
            helper.make_node("Div", ["pool_sum", "pool_count"], ["pooled"]),
            helper.make_node("LpNormalization", ["pooled"], ["EMBEDDING"], axis=1, p=2),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("EMBEDDING", TensorProto.FLOAT, ["batch", DIMENSIONS]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
