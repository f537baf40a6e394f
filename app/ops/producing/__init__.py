"""Parts of the producer: connecting, writing batches, keeping to a schedule, labels behind their transactions.

`app.ops.produce` is the entry point; `app.ops.files` reads files.
"""
