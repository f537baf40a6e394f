"""The order of effects for blocks of records, and event-time alignment: no Faust, no Kafka."""
