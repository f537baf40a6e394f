"""`fraudstream pseudonym`: pseudonyms of card ids, as producers send them."""

import click

from app.errors import UsageError
from app.settings import load_settings


@click.command(
    epilog="\b\nExample:  fraudstream pseudonym < cards.txt > pseudonyms.txt",
)
def pseudonym() -> None:
    """Read card ids from standard input, one per line, and print their pseudonyms.

    Uses the newest key of FRAUDSTREAM_CARD_ID_KEYS. Ids cannot be arguments, because other users of this
    machine can read the arguments of commands.
    """
    pseudonyms = load_settings().pseudonyms
    if pseudonyms is None:
        msg = "set FRAUDSTREAM_CARD_ID_KEYS, such as 1:KEY with a key from `openssl rand -hex 32`"
        raise UsageError(msg)
    for line in click.get_text_stream("stdin"):
        if card_id := line.rstrip("\r\n"):
            click.echo(pseudonyms.of(card_id))
