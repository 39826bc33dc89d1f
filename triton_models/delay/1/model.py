"""delay: OUTPUT0 is INPUT0, after ``delay_ms`` milliseconds.

Request parameters: ``delay_ms`` (0 to 600,000; default 0), and ``delay_until_ms``, when that ends (epoch milliseconds);
``fail``, the name of the Triton error to answer with (``INTERNAL``, ``UNAVAILABLE``, ``INVALID_ARG``, ...), and
``fail_until_ms``, when that ends.
"""

from __future__ import annotations

import json
import math
import time

import triton_python_backend_utils as pb
from serving.instance import Instance

LONGEST_MS = 600_000
LOOK_SECONDS = 0.05


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        Instance.of(args)

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        return [self.answer(request) for request in requests]

    def answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        parameters = json.loads(request.parameters() or "{}")
        delay_ms = parameters.get("delay_ms", 0)
        if isinstance(delay_ms, bool) or not isinstance(delay_ms, int | float) or not 0 <= delay_ms <= LONGEST_MS:
            return failure("INVALID_ARG", f"delay_ms is {delay_ms!r}: it must be a number from 0 to {LONGEST_MS}")
        left_ms = parameters.get("delay_until_ms", math.inf) - time.time() * 1000
        if not sleep_unless_cancelled(request, min(delay_ms, left_ms) / 1000):
            return failure("CANCELLED", "the caller no longer waits")
        if "fail" in parameters and time.time() * 1000 < parameters.get("fail_until_ms", math.inf):
            return failure(str(parameters["fail"]), "failed as the request's parameter fail asks")
        return pb.InferenceResponse([pb.Tensor("OUTPUT0", pb.get_input_tensor_by_name(request, "INPUT0").as_numpy())])


def sleep_unless_cancelled(request: pb.InferenceRequest, seconds: float) -> bool:
    """False if the caller gave up meanwhile: its place is then free for the next."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if request.is_cancelled():
            return False
        time.sleep(min(left, LOOK_SECONDS))
    return True


def failure(code: str, message: str) -> pb.InferenceResponse:
    number = getattr(pb.TritonError, code, None) if code.isupper() else None
    if number is None:
        number, message = pb.TritonError.INVALID_ARG, f"fail is {code!r}: it must name a Triton error, INTERNAL for one"
    return pb.InferenceResponse(error=pb.TritonError(message, number))
