"""`fraudstream replay`: what it is made of; `app/ops/replay.py` puts it together.

| module        | what                                                                                     |
|---------------|------------------------------------------------------------------------------------------|
| plan.py       | what is to be replayed, how, and under which name                                        |
| bounds.py     | which transactions are asked for, how far back windows reach, and what is lacking there  |
| survey.py     | what stands on `enriched`: the order and the fates of the live stream                    |
| passes.py     | the two stages once more: the live handlers, over rows of their own                      |
| results.py    | results on their way to the topics and the keyspace of app/cassandra/shadows.py           |
| comparison.py | the results beside the live rows, and beside labels                                      |
"""
