"""The schema of Cassandra: numbered migrations, applied in order by `fraudstream migrate`.

Each file is a template: `${keyspace}` and `${replication}` are filled in from the settings. A file that has
been applied anywhere never changes again (its checksum is recorded); what is to change gets a new number.
Every statement says IF NOT EXISTS, so that a run that was cut off can be repeated.
"""
