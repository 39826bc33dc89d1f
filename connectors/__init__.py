"""The outside systems, one module or folder each, behind the protocols of ``headrace.pipeline.ports``."""
