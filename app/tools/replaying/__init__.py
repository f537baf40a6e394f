"""`fraudstream replay`: what it is made of; `app/tools/replay.py` puts it together.

| module        | what                                                                    |
|---------------|-------------------------------------------------------------------------|
| bounds.py     | which transactions are asked for, and how far back their windows reach   |
| survey.py     | what stands on `enriched`: the order and the fates of the live stream    |
| passes.py     | the two stages once more: the live handlers, over rows of their own      |
| shadow.py     | the topics and the keyspace that results go to                           |
| comparison.py | the results beside the live rows, and beside labels                      |
"""
