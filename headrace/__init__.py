"""headrace: exactly-once streaming inference from Kafka to NVIDIA Triton and back.

This package is the facade users import. The code lives in the folders ``pipeline/`` (the journey of a
record, no third-party client in it) and ``connectors/`` (Kafka, registry, Triton); both are importable as
``headrace.pipeline`` and ``headrace.connectors`` (see docs/decisions/001-names-and-packaging.md).
"""

__version__ = "0.1.0"
