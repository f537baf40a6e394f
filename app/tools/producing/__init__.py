"""Parts of the producer: connecting, writing batches, keeping to a schedule, labels behind their transactions.

`app.tools.produce` is the entry point; `app.tools.files` reads files.
"""
