"""The servers that run locally."""

from app.devstack.cassandra import Cassandra
from app.devstack.kafka import Kafka
from app.devstack.server import Server

#: Both servers by name, in the order in which they are started and told.
SERVERS: dict[str, Server] = {"kafka": Kafka(), "cassandra": Cassandra()}
