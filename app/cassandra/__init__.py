"""Cassandra: sessions, schema and migrations, the sink's own connections, rows and look-ups."""
