"""What `fraudstream verify` is made of.

| module   | does                                                                              |
|----------|-----------------------------------------------------------------------------------|
| log      | waits for the workers, reads topics partition by partition                        |
| ledger   | what is expected and what was seen of each source record, in compact columns      |
| sources  | transactions and `enriched` through the oracle: what is expected                  |
| outputs  | predictions, copies of late ones, dead letters, duplicates: what was seen         |
| labels   | labels: forwarded, dead, given up by their terminals, stored                       |
| rows     | Cassandra: what was stored                                                        |
| refunds  | refunds: on their topic and in Cassandra                                          |
| scores   | scores and reasons once more, by the model that each record names                 |
| findings | differences, the first of them with both values                                   |
| report   | sums it up                                                                        |
"""
