"""How long a worker may take to stop, or to give partitions up in a rebalance."""

#: Seconds that blocks in flight get to finish before partitions are given up. Less than
#: `broker_rebalance_timeout`, so that the group does not give us up first.
DRAIN_SECONDS = 5.0
#: What the last commit may take then.
COMMIT_SECONDS = 2.0
#: What a stop may take: blocks in flight get `DRAIN_SECONDS` of it, a last commit and leaving the group the rest.
#: Orchestrators kill after 30 s, often after 10.
STOP_SECONDS = 9.0
