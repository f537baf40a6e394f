"""Parts of the producer: reading files, making input records of their rows, writing batches.

`app.tools.produce` is the door.
"""
