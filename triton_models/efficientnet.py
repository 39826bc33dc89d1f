"""EfficientNet-Lite0 as an ONNX graph, from its PyTorch weights.

Architecture: Tan and Le, 2019 (arXiv 1905.11946) in its Lite variant (no squeeze-and-excite, ReLU6). Batch
normalisation is folded into the convolutions, and scaling is part of the graph, so that it takes plain RGB bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from . import torch_file

SHA256 = "b11d900927b468b226a1c8d46b8185da5abf985a9e8d3f4866e1abacfa4f7c63"
SIDE_PIXELS = 224
CLASSES = 1000
FEATURES = 1280
_EPSILON = 1e-3
_MEAN, _DEVIATION = 127.0, 128.0
_OPSET, _IR_VERSION = 17, 8

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Stage:
    """Equal blocks in a row; only the first has the stride, and changes the number of channels."""

    blocks: int
    stride: int
    expansion: int
    channels_in: int
    channels_out: int


_STAGES = (
    _Stage(1, 1, 1, 32, 16),
    _Stage(2, 2, 6, 16, 24),
    _Stage(2, 2, 6, 24, 40),
    _Stage(3, 2, 6, 40, 80),
    _Stage(3, 1, 6, 80, 112),
    _Stage(4, 2, 6, 112, 192),
    _Stage(1, 1, 6, 192, 320),
)


class _Graph:
    """Nodes and initialisers in the order they are added; a node's output is named after what made it."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float32] | float) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(value, np.float32, order="C"), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(self, x: str, name: str, norm: str, *, stride: int = 1, groups: int = 1, relu: bool = True) -> str:
        """Convolution with its batch normalisation folded in, then ReLU6 unless ``relu`` is off."""
        scale, shift, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + _EPSILON)
        kernel = self.weights[f"{name}.weight"].astype(np.float64) * factor[:, None, None, None]
        inputs = [
            x,
            self.constant(f"{name}.kernel", kernel.astype(np.float32)),
            self.constant(f"{name}.bias", (shift - mean * factor).astype(np.float32)),
        ]
        side = kernel.shape[2]
        y = self.add(
            "Conv", inputs, name, kernel_shape=[side, side], strides=[stride] * 2, group=groups, auto_pad="SAME_UPPER"
        )
        return self.add("Clip", [y, "zero", "six"], f"{name}.relu6") if relu else y

    def block(self, x: str, name: str, stage: _Stage, *, first: bool) -> str:
        """Inverted residual: widen, filter each channel by itself, narrow; add the input where shapes allow."""
        channels = stage.channels_in if first else stage.channels_out
        stride = stage.stride if first else 1
        y = x
        if stage.expansion != 1:
            y = self.convolution(y, f"{name}._expand_conv", f"{name}._bn0")
        groups = channels * stage.expansion
        y = self.convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, groups=groups)
        y = self.convolution(y, f"{name}._project_conv", f"{name}._bn2", relu=False)
        residual = stride == 1 and channels == stage.channels_out
        return self.add("Add", [y, x], f"{name}.sum") if residual else y


def build(pth: bytes) -> bytes:
    """IMAGE uint8 [N, 224, 224, 3] (RGB) to PROBS float32 [N, 1000] and FEATURES float32 [N, 1280].

    The same weights always give the same bytes.
    """
    graph = _Graph(torch_file.load(pth))
    for name, value in (("zero", 0.0), ("six", 6.0), ("mean", _MEAN), ("deviation", _DEVIATION)):
        graph.constant(name, value)
    x = graph.add("Cast", ["IMAGE"], "pixels", to=TensorProto.FLOAT)
    x = graph.add("Sub", [x, "mean"], "centred")
    x = graph.add("Div", [x, "deviation"], "scaled")
    x = graph.add("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    x = graph.convolution(x, "_conv_stem", "_bn0", stride=2)
    index = 0
    for stage in _STAGES:
        for position in range(stage.blocks):
            x = graph.block(x, f"_blocks.{index}", stage, first=position == 0)
            index += 1
    x = graph.convolution(x, "_conv_head", "_bn1")
    x = graph.add("GlobalAveragePool", [x], "pooled")
    x = graph.add("Flatten", [x], "FEATURES")
    kernel = graph.constant("_fc.kernel", graph.weights["_fc.weight"])
    x = graph.add("Gemm", [x, kernel, graph.constant("_fc.shift", graph.weights["_fc.bias"])], "logits", transB=1)
    graph.add("Softmax", [x], "PROBS", axis=1)
    return _serialise(graph)


def _serialise(graph: _Graph) -> bytes:
    def value(name: str, datatype: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, datatype, ["N", *shape])

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet_lite0",
            [value("IMAGE", TensorProto.UINT8, SIDE_PIXELS, SIDE_PIXELS, 3)],
            [value("PROBS", TensorProto.FLOAT, CLASSES), value("FEATURES", TensorProto.FLOAT, FEATURES)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
