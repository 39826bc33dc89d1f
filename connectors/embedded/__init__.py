"""Real servers on this machine for demo, development and tests: Kafka, schema registry, Triton."""
