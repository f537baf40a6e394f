"""The agents, thin: each hands its blocks to a pipeline, whose handler does the work.

| agent   | reads        | writes                                              | table     | handler              |
|---------|--------------|-----------------------------------------------------|-----------|----------------------|
| cards   | transactions | enriched, dead-letters, duplicates, refunds, transactions | cards | app/stages/cards |
| scoring | enriched     | predictions, alerts, late-transactions, dead-letters | terminals | app/stages/scoring |
| control | control      | enriched, dead-letters                              |           | app/stages/control |
| labels  | labels       | enriched, dead-letters, Cassandra `labels`          |           | app/stages/labels  |
| sink    | predictions  | Cassandra `predictions`, `conflicting_predictions`  |           | app/stages/sink    |
| refunds | refunds      | Cassandra `refunds`                                 |           | app/stages/sink    |
| alerts  | alerts       | Cassandra `alerts`                                  |           | app/stages/sink    |

Besides, the task `guard` checks every second whether a change of the model or threshold has to be reverted, and writes
the revert to `control`.
"""
