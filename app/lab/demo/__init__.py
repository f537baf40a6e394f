"""`fraudstream demo`: from an empty machine to scored transactions, and a summary. run.py has its phases."""
