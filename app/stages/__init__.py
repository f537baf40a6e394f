"""What each agent does with a block: records in, outputs and rows out; no Faust and no I/O.

The handlers connect the records (app/wire) with the domain code (app/domain); app/blocks runs them.
"""
