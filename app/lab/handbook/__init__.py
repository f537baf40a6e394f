"""The proof on the Fraud Detection Handbook's transactions: live pass, models and figures; see `run.py`.

```text
data      where the file is, and what its columns are called
plan      periods, recipe of the champion, published figures and goals
live      servers, worker and producer of one pass with labels
rows      what Cassandra holds afterwards, as columns
judging   the lines of the table
report    the table for people, one object for scripts
run       all of it in turn
```
"""
