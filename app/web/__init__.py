"""The web views of a worker: index, cards, terminals, transactions, metrics, health.

They are plain aiohttp handlers (`views.py`) on Faust's own web server. What they need of the running worker
stands in one protocol, `ports.Worker`: `worker.py` answers it from Faust, tests answer it from a dictionary.

| module        | what                                                                |
|---------------|---------------------------------------------------------------------|
| views.py      | one handler a page, and the routes                                  |
| ids.py        | ids in URLs, both ways                                              |
| state.py      | a state row as JSON, pure                                           |
| replies.py    | JSON or HTML, errors as pages, headers                              |
| pages.py      | templates and their filters                                         |
| ports.py      | what the views ask of a worker; who holds a key                     |
| worker.py     | the protocol's answer from a running Faust app                      |
| register.py   | puts the views on the app's web server; imported by app/main.py     |
"""
