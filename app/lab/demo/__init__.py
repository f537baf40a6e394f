"""`fraudstream demo`: everything from an empty machine to scored transactions, and a summary of it.

| module       | what                                                              |
|--------------|-------------------------------------------------------------------|
| servers.py   | servers, topics and tables are there                              |
| feed.py      | what is sent: simulated transactions, or a file                   |
| kinds.py     | kinds of fraud, as far as labels can tell them                    |
| live.py      | simulated transactions that happen now                            |
| positions.py | where topics end, and waiting until the workers are there         |
| meters.py    | rows and latency, from the workers' own metrics                   |
| account.py   | what became of each record, as sets; the most suspicious ones     |
| run.py       | the phases, one after the other                                   |
| stream.py    | the endless part: sends at a gentle rate, labels behind it        |
| board.py     | the live table of what is flagged                                 |
| summary.py   | what was measured, as plain values                                |
| text.py      | the same as text for people                                       |
| screen.py    | lines, bars and the status line                                   |
"""
