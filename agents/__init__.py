"""The agents, thin: each hands its blocks to a pipeline, whose handler does the work.

| agent   | reads        | writes                                              | table     | handler              |
|---------|--------------|-----------------------------------------------------|-----------|----------------------|
| cards   | transactions | enriched, dead-letters, duplicates, refunds, transactions | cards | app/handlers/cards |
| scoring | enriched     | predictions, late-transactions, dead-letters        | terminals | app/handlers/scoring |
| labels  | labels       | enriched, dead-letters, Cassandra `labels`          |           | app/handlers/labels  |
| sink    | predictions  | Cassandra `predictions`, `conflicting_predictions`  |           | app/handlers/sink    |
| refunds | refunds      | Cassandra `refunds`                                 |           | app/handlers/sink    |
"""
