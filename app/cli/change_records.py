"""What commands write down about a change that somebody makes with them."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from app.change_author import author, user_name

if TYPE_CHECKING:
    from app.cassandra.audit_records import AuditRecord

by_option = click.option("--by", metavar="NAME", help="Name to record.  [default: your user name]")


def audit_record(
    action: str, objects: Iterable[str], by: str | None, **details: Any
) -> "AuditRecord":
    """The audit record of a change that begins now.

    Args:
        action: what is done.
        objects: what it is done to, such as `card/C00042`.
        by: who says that they make it; None: the user of the operating system, whom the record names in any case.
        details: what else is to be known; what is empty is left out.
    """
    from app.cassandra.audit_records import AuditRecord

    return AuditRecord(
        time.time_ns() // 1_000_000,
        by or user_name(),
        "command",
        author(),
        action,
        frozenset(objects),
        details={name: value for name, value in details.items() if value},
    )
