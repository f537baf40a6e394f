"""The agents, thin: each hands its blocks to a pipeline, whose handler does the work.

| agent | reads | writes | table | handler |
|---|---|---|---|---|
| cards | transactions | enriched, dead-letters, duplicates, refunds, transactions | cards | app/stages/card_stage |
| scoring | enriched | predictions, alerts, late-transactions, dead-letters | terminals | app/stages/scoring_stage |
| control | control | enriched, dead-letters |  | app/stages/change_forwarding |
| labels | labels | enriched, dead-letters, Cassandra `labels` |  | app/stages/label_stage |
| sink | predictions | Cassandra `predictions`, `conflicting_predictions` |  | app/stages/sink_stage |
| refunds | refunds | Cassandra `refunds` |  | app/stages/sink_stage |
| alerts | alerts | Cassandra `alerts` |  | app/stages/sink_stage |

Besides, the task `guard` checks twenty times a second whether a change of the model or threshold has to be reverted,
and writes the revert to `control`.
"""
