"""What each agent does with a block: records in, outputs and rows out; no Faust and no I/O.

They join the wire (app/wire) and the rules (app/domain); app/blocks runs them.
"""
