"""What replaces parts of Faust and aiokafka so that a topic is read, and a table written, in blocks."""
