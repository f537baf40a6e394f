"""Kafka beside the stream: clients, partitioner, topics and their checks, the schema registry."""
