"""Amazon Kinesis Data Streams, as sources of streams."""
