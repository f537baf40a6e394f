"""Files of transactions and of labels, read row by row and turned into records for Kafka or for training.

```text
source, text         what every file has; its bytes as UTF-8 text
csv_rows, json_lines, parquet_rows, opening
                     the formats, and which one a file has
recipes, derived     well-known public data sets, and the columns that their files lack
columns, answers     which column becomes which field; which columns tell what is fraud
identifiers, amounts, moments
                     single values
records, doubtful_ids  a row as an input record; ids that are probably none
transactions, labels a whole file
```
"""
