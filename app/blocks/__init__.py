"""The block transport: Faust agents that take whole fetched blocks, and state that survives anything.

Faust's own road costs about 70 us a message and its producer buffer about 100 us more. Here an agent is
handed *one block*: the list of records that one fetch brought for one partition. Blocks grow with load by
themselves, so there is no timer: idle means a block of one and low latency.

The order of effects for each block, and why (`partition.py`, driven in tests by a simulated log and store):

1. compute outputs and new rows in memory; a record at or below its row's `last_offset` is skipped,
2. outputs to Kafka (or another sink), all acknowledged,
3. the rows to the table's changelog, acknowledged, at the very offset where they were expected,
4. rows and changelog offset into RocksDB in one write batch,
5. acknowledge the block; its offset is committed later.

So a row's `last_offset` is proof that its outputs are durable; a crash anywhere gives outputs at least
once and state exactly once. Later blocks compute on an overlay of rows that are not durable yet, and
finish in order. What cannot be explained ends the process (`halt.py`): a restarted Faust actor would go
on with the *next* block.

| module       | what                                                                |
|--------------|---------------------------------------------------------------------|
| partition.py | the order of effects for one partition; no Kafka, no Faust in it    |
| ports.py     | what a partition is given and asks for                              |
| skew.py      | how far apart in event time partitions may run: the rule            |
| pace.py      | holds back those that run ahead, on however many workers            |
| notes.py     | positions beside committed offsets                                  |
| rows.py      | what is asked of a row: `last_offset` first; which of two rows wins |
| chunks.py    | what a fetch covers; positions that are not in the log              |
| budget.py    | how much memory blocks may take                                     |
| unstable.py  | open Kafka transactions, and what waits behind them                 |
| transport.py | Faust transport driver: one message a fetched chunk                 |
| topic.py     | a topic that is read in blocks                                      |
| table.py     | block-wise changelog, store writes, recovery and healing            |
| recovery.py  | recovery that waits for Kafka                                       |
| connections.py | aiokafka's connections where uvloop runs them                     |
| batches.py   | Kafka record batches by hand                                        |
| queue.py     | where those wait for their turn, and others may join them           |
| store.py     | RocksDB's options, shared by all partitions                         |
| pipeline.py  | joins agent, partition, table and outputs                           |
| app.py       | the Faust app that knows which topics are read in blocks            |
| collector.py | Python's garbage collector, calmed                                  |
| halt.py      | stop at once                                                        |

It leans on internals of faust-streaming 0.15.3: a guard test fails when an overridden method changes.
"""
