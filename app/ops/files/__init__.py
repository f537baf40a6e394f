"""Files of transactions and of labels, read row by row and turned into records for Kafka or for training.

```text
file_source, text_encoding  what every file has; its bytes as UTF-8 text
csv_rows, json_lines, parquet_rows, opening, suffixes
                            the formats, and which one a file has
dataset_recipes, derived_columns
                            well-known public data sets, and the columns that their files lack
columns, label_columns, verdict_columns
                            which column becomes which field; which columns tell what is fraud
file_ids, amount_rounding, file_times
                            single values
rows_to_records, doubtful_ids
                            a row as an input record; ids that are probably none
file_pass, transaction_file, label_file
                            a whole file
```
"""
