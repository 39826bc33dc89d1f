"""headrace: exactly-once streaming inference from Kafka to NVIDIA Triton and back.

This package is the facade users import. The code lives in the folders ``pipeline/`` (the journey of a
record, no third-party client in it) and ``connectors/`` (Kafka, registry, Triton); both are importable as
``headrace.pipeline`` and ``headrace.connectors`` (see docs/decisions/001-names-and-packaging.md). The Python SDK is
in ``headrace/sdk/``; its names are imported from here (see docs/sdk.md), each when it is first used.
"""

TYPE_CHECKING = False  # as typing's, without importing it: ``import headrace`` costs next to nothing
if TYPE_CHECKING:
    from headrace.connectors.kafka.producer import DeliveryReport, EventTooLargeError
    from headrace.pipeline.agents import InferenceApp
    from headrace.pipeline.config import Settings
    from headrace.pipeline.errors import (
        ConfigError,
        FatalError,
        HeadraceError,
        RetriableError,
        StackError,
        UnavailableError,
    )
    from headrace.pipeline.outcomes import Unreadable
    from headrace.pipeline.records import (
        DeadLetter,
        InferenceRequest,
        InferenceResult,
        Label,
        Modality,
        NamedTensor,
        Part,
        PartOutput,
        Provenance,
        Segment,
        SourceRecord,
        Tensor,
        Timings,
    )
    from headrace.pipeline.user_agents import RecordStream
    from headrace.pipeline.user_code import Record, RejectError
    from headrace.sdk.client import InferenceClient
    from headrace.sdk.consumer import ResultConsumer
    from headrace.sdk.errors import (
        ClosedError,
        DeadLetteredError,
        InferenceTimeoutError,
        InvalidEventError,
        UnreadableRecordError,
    )
    from headrace.sdk.events import Event, EventOptions, event
    from headrace.sdk.parts import PartLike, audio, image, tensor, text, video
    from headrace.sdk.producer import EventProducer
    from headrace.sdk.received import Received
    from headrace.sdk.tensors import to_array, to_tensor

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "ConfigError",
    "DeadLetter",
    "DeadLetteredError",
    "DeliveryReport",
    "Event",
    "EventOptions",
    "EventProducer",
    "EventTooLargeError",
    "FatalError",
    "HeadraceError",
    "InferenceApp",
    "InferenceClient",
    "InferenceRequest",
    "InferenceResult",
    "InferenceTimeoutError",
    "InvalidEventError",
    "Label",
    "Modality",
    "NamedTensor",
    "Part",
    "PartLike",
    "PartOutput",
    "Provenance",
    "Received",
    "Record",
    "RecordStream",
    "RejectError",
    "ResultConsumer",
    "RetriableError",
    "Segment",
    "Settings",
    "SourceRecord",
    "StackError",
    "Tensor",
    "Timings",
    "UnavailableError",
    "Unreadable",
    "UnreadableRecordError",
    "__version__",
    "audio",
    "event",
    "image",
    "tensor",
    "text",
    "to_array",
    "to_tensor",
    "video",
]

_HOMES = {
    "connectors.kafka.producer": {"DeliveryReport", "EventTooLargeError"},
    "pipeline.agents": {"InferenceApp"},
    "pipeline.config": {"Settings"},
    "pipeline.errors": {
        *("ConfigError", "FatalError", "HeadraceError", "RetriableError", "StackError", "UnavailableError"),
    },
    "pipeline.outcomes": {"Unreadable"},
    "pipeline.records": {
        *("DeadLetter", "InferenceRequest", "InferenceResult", "Label", "Modality", "NamedTensor", "Part"),
        *("PartOutput", "Provenance", "Segment", "SourceRecord", "Tensor", "Timings"),
    },
    "pipeline.user_agents": {"RecordStream"},
    "pipeline.user_code": {"Record", "RejectError"},
    "sdk.client": {"InferenceClient"},
    "sdk.consumer": {"ResultConsumer"},
    "sdk.errors": {
        *("ClosedError", "DeadLetteredError", "InferenceTimeoutError", "InvalidEventError", "UnreadableRecordError"),
    },
    "sdk.events": {"Event", "EventOptions", "event"},
    "sdk.parts": {"PartLike", "audio", "image", "tensor", "text", "video"},
    "sdk.producer": {"EventProducer"},
    "sdk.received": {"Received"},
    "sdk.tensors": {"to_array", "to_tensor"},
}
"""Module → the names that are imported from it when they are first used (PEP 562)."""


if not TYPE_CHECKING:  # a type checker that saw it would take any name

    def __getattr__(name: str) -> object:
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
