"""Apache Kafka: topics as streams."""
