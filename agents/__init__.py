"""The agents, thin: each hands its blocks to a pipeline, whose handler does the work.

| agent   | reads        | writes                                              | table     | handler              |
|---------|--------------|-----------------------------------------------------|-----------|----------------------|
| cards   | transactions | enriched, dead-letters, duplicates, transactions    | cards     | app/handlers/cards   |
| scoring | enriched     | predictions, late-transactions, dead-letters        | terminals | app/handlers/scoring |
| labels  | labels       | enriched, dead-letters, Cassandra `labels`          |           | app/handlers/labels  |
| sink    | predictions  | Cassandra `predictions`                             |           | app/handlers/sink    |
"""
