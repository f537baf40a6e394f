"""`fraudstream users`: lines of the file of users and tokens of the web pages."""

import click

from app.errors import UsageError

_ROLES = ("viewer", "analyst", "operator")

_role = click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="Web role. viewer: state of the deployment; analyst: also cards, transactions and alerts; "
    "operator: everything.",
)


@click.group(epilog="\b\nExample:  fraudstream users add ann --role analyst >> users")
def users() -> None:
    """Create users and tokens for the web pages.

    Each command prints a line: add it to the file that FRAUDSTREAM_WEB_USERS names. Workers read the file again when
    it changes; removing a user's line ends the user's sessions.
    """


@users.command(epilog="\b\nExample:  fraudstream users add ann --role analyst >> users")
@click.argument("name")
@_role
def add(name: str, role: str) -> None:
    """Ask for a password and print the line of a user."""
    from app.web.access.users import LEAST_PASSWORD_CHARACTERS, password_line

    password = click.prompt(
        f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
    )
    if len(password) < LEAST_PASSWORD_CHARACTERS:
        msg = f"a password needs at least {LEAST_PASSWORD_CHARACTERS} characters"
        raise UsageError(msg)
    click.echo(password_line(_checked(name), role, password))


@users.command(epilog="\b\nExample:  fraudstream users token prometheus --role viewer >> users")
@click.argument("name")
@_role
def token(name: str, role: str) -> None:
    """Print the line of a new token; the token itself goes to standard error, once.

    Programs send the token as `Authorization: Bearer TOKEN`; commands read it from FRAUDSTREAM_WEB_TOKEN.
    """
    from app.web.access.users import token_line

    made, line = token_line(_checked(name), role)
    click.echo(line)
    click.echo(f"token of {name}, shown only now: {made}", err=True)


def _checked(name: str) -> str:
    if not name or name.split() != [name] or name.startswith("#") or not name.isprintable():
        msg = f"{name!r} is not a valid name: no spaces, and no # at the beginning"
        raise UsageError(msg)
    return name
