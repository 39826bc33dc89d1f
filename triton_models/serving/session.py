"""ONNX Runtime sessions. Apart, because models without a graph need not load the runtime."""

from __future__ import annotations

import onnxruntime

from .instance import Instance


def open_session(instance: Instance) -> onnxruntime.InferenceSession:
    """The model's graph on the instance's device.

    Raises:
        RuntimeError: if it should run on a GPU and would not.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(instance.parameters.get("threads", "1"))
    options.inter_op_num_threads = 1
    # A spinning thread pool would take the cores from the other models between two batches.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(instance.folder / "model.onnx")
    if instance.kind != "GPU":
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    cuda = "CUDAExecutionProvider"
    if cuda not in onnxruntime.get_available_providers():
        raise RuntimeError(
            "placement is cuda, but this onnxruntime has no CUDA provider: install onnxruntime-gpu in its place "
            "(triton_models/requirements-cuda.txt) or set placement to cpu"
        )
    onnxruntime.preload_dlls()  # the CUDA libraries that came as packages
    session = onnxruntime.InferenceSession(path, options, providers=[(cuda, {"device_id": instance.device_id})])
    if cuda not in session.get_providers():
        raise RuntimeError(
            f"placement is cuda, but ONNX Runtime could not use device {instance.device_id} (the log above says why: "
            "mostly a missing CUDA or cuDNN library); it would have run on the CPU"
        )
    return session
