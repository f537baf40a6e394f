"""Users and tokens of the web pages: a file with a line each, `NAME ROLE HASH`.

Passwords are hashed by argon2id, tokens by SHA-256: they have 256 random bits, so nobody guesses them. The file is read
again when it has changed.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.errors import SettingsError
from app.web.roles import Role

#: Fewest characters of a password.
LEAST_PASSWORD_CHARACTERS = 12
_TOKEN = "sha256:"  # noqa: S105
_FORM = "write NAME ROLE HASH, as `fraudstream users` prints it"


@lru_cache(maxsize=1)
def _hasher() -> Any:
    from argon2 import PasswordHasher  # only where somebody logs in by a password

    return PasswordHasher()


@lru_cache(maxsize=1)
def _nobody() -> str:
    """Verified where there is no such user: how long an answer takes must not say who exists."""
    return str(_hasher().hash(secrets.token_hex()))


@dataclass(frozen=True)
class User:
    """One line of the file.

    Attributes:
        name: unique.
        role: theirs.
        hash: of the password or the token.
    """

    name: str
    role: Role
    hash: str

    @property
    def stamp(self) -> str:
        """Changes with the password: sessions end with it."""
        return hashlib.sha256(self.hash.encode()).hexdigest()[:16]


def password_line(name: str, role: str, password: str) -> str:
    """The line of a user."""
    return f"{name} {role} {_hasher().hash(password)}"


def token_line(name: str, role: str) -> tuple[str, str]:
    """A new token, and its line."""
    token = secrets.token_urlsafe(32)
    return token, f"{name} {role} {_digest(token)}"


class Users:
    """Who may log in.

    Args:
        path: the file; None: nobody may.

    Raises:
        SettingsError: it cannot be read, or a line is wrong.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: object = None
        self._users: dict[str, User] = {}
        self._tokens: dict[str, User] = {}
        self._names: frozenset[str] = frozenset()
        if path is not None:
            self._read(path)

    def __bool__(self) -> bool:
        return bool(self._users or self._tokens)

    def renew(self) -> None:
        """Read the file again if it has changed.

        Raises:
            SettingsError: it cannot be used now; those of before stay.
        """
        if self._path is not None and _state(self._path) != self._seen:
            self._read(self._path)

    def get(self, name: str) -> User | None:
        """A user by name."""
        return self._users.get(name)

    def has(self, name: str) -> bool:
        """Whether a user or a token has this name, in whatever case."""
        return name.casefold() in self._names

    def by_password(self, name: str, password: str) -> User | None:
        """The user with this password; takes some 50 ms of a thread, whether there is one or not."""
        from argon2.exceptions import InvalidHashError, VerificationError

        user = self._users.get(name)
        try:
            _hasher().verify(user.hash if user else _nobody(), password)
        except (VerificationError, InvalidHashError):
            return None
        return user

    def by_token(self, token: str) -> User | None:
        """Whose token this is."""
        digest = _digest(token)
        found = None
        for known, user in self._tokens.items():
            if hmac.compare_digest(known, digest):
                found = user
        return found

    def _read(self, path: Path) -> None:
        users: dict[str, User] = {}
        tokens: dict[str, User] = {}
        state = _state(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            msg = f"FRAUDSTREAM_WEB_USERS={path} cannot be read: {why}"
            raise SettingsError(msg) from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            user = _parse(line, f"{path}, line {number}")
            if any(user.name == other.name for other in (*users.values(), *tokens.values())):
                msg = f"{path}, line {number}: there is already a {user.name!r}"
                raise SettingsError(msg)
            if user.hash.startswith(_TOKEN):
                tokens[user.hash] = user
            else:
                users[user.name] = user
        self._users, self._tokens, self._seen = users, tokens, state
        self._names = frozenset(u.name.casefold() for u in (*users.values(), *tokens.values()))


def _parse(line: str, where: str) -> User:
    parts = line.split()
    if len(parts) != 3 or not parts[2].startswith(("$argon2id$", _TOKEN)):
        msg = f"{where}: {_FORM}"
        raise SettingsError(msg)
    name, role, hashed = parts
    known = [one.title for one in Role if one is not Role.PUBLIC]
    if role not in known:
        msg = f"{where}: {role!r} is not a web role; choose {', '.join(known)}"
        raise SettingsError(msg)
    return User(name, Role[role.upper()], hashed)


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(token: str) -> str:
    return _TOKEN + hashlib.sha256(token.encode()).hexdigest()
