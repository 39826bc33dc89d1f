"""The journey of a record, from Avro bytes to a committed result; imports no Kafka, Triton or registry client."""
