"""`python -m app` is the same as `fraudstream`."""

from app.main import main

main()
