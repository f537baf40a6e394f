"""The block transport: Faust agents that take whole fetched blocks, and state that survives anything.

Faust's own path costs about 70 us per message, and its producer buffer about 100 us more. Here an agent is given *one
block*: the list of records that one fetch returned for one partition. Blocks grow with the load, so there is no timer:
with little load, a block is one record and latency is low.

The order of effects for each block, and why (`partition.py` and `order_of_effects.py`, driven in tests by a simulated
log and store):

1. compute outputs and new rows in memory; a record at or below its row's `last_offset` is skipped,
2. outputs to Kafka (or another sink), all acknowledged,
3. the rows to the table's changelog, acknowledged, at the very offset where they were expected,
4. rows and changelog offset into RocksDB in one write batch,
5. acknowledge the block; its offset is committed later.

So a row's `last_offset` is proof that its outputs are durable; a crash anywhere gives outputs at least
once and state exactly once. Later blocks compute on an overlay of rows that are not durable yet, and
finish in order. The blocks of all partitions that have come are computed together, in a pulse
(`event_loop_turns.py`); no partition waits for another. What cannot be explained ends the process
(`fatal_errors.py`): a restarted Faust actor would go on with the *next* block.

It leans on internals of faust-streaming 0.15.3: a guard test fails when an overridden method changes.
"""
