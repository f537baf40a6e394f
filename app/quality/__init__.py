"""How good decisions were, as labels arrive: predictions of Cassandra judged by its labels.

| module       | what                                                     |
|--------------|----------------------------------------------------------|
| verdicts.py  | the labels that hold, nine bytes each                    |
| tally.py     | counts and scores by day and model version; pure         |
| measure.py   | one scan of labels, one of predictions                   |
"""
