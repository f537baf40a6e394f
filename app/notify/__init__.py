"""`fraudstream notify`: sends notifications about alerts, at its own pace, in a process of its own.

| module       | what                                                                     |
|--------------|--------------------------------------------------------------------------|
| notices.py   | what one message says: an alert, or many                                 |
| pending.py   | what is still to be told, and when: single messages, digests in a storm  |
| senders.py   | signed webhooks; everything else through `apprise`                       |
| told.py      | the durable memory of who was told of what                               |
| snoozes.py   | what nobody is told of now                                               |
| route.py     | reads `alerts` for one route: send, remember, commit, in this order      |
| run.py       | all routes, until a signal                                               |
"""
