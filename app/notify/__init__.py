"""`fraudstream notify`: sends notifications about alerts, in a process of its own. run.py begins it."""
