"""Kafka: the only importers of confluent_kafka."""
