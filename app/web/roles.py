"""Who asks for a page, and what they may do; templates and handlers ask here."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from markupsafe import Markup

#: The form field, or header, of every request that changes something.
CSRF_FIELD, CSRF_HEADER = "csrf", "X-Fraudstream-Csrf"


class Role(IntEnum):
    """Each may what those before it may."""

    PUBLIC = 0  # without a login
    VIEWER = 1  # the state of the deployment: dashboard, figures, quality
    ANALYST = 2  # cards, terminals, transactions and alerts, and judging them
    OPERATOR = 3  # whatever changes the deployment

    @property
    def title(self) -> str:
        """As files and people write it."""
        return self.name.lower()


@dataclass(frozen=True)
class Viewer:
    """Who asks.

    Attributes:
        name: of the user or token; empty for nobody.
        role: theirs.
        csrf: the token that their forms must send; empty where none is needed.
        session: whether they logged in by the form, and can log out.
    """

    name: str = ""
    role: Role = Role.PUBLIC
    csrf: str = ""
    session: bool = False

    def may(self, role: str) -> bool:
        """Whether they may what this role may: `viewer.may("analyst")` in a template."""
        return self.role >= Role[role.upper()]

    @property
    def csrf_field(self) -> Markup:
        """The hidden field of every form that changes something: `{{ viewer.csrf_field }}`."""
        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, self.csrf)


NOBODY = Viewer()
#: Who asks for the page that is being made.
viewer: ContextVar[Viewer] = ContextVar("viewer", default=NOBODY)
