"""Addresses of databases: which are taken, and how they are shown without a password.

PostgreSQL takes passwords from PGPASSWORD, ~/.pgpass and service files by itself; one that stands
in an address anyway must not be seen where addresses and errors are.
"""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from variants.user_error import UserError

_PSYCOPG = "postgresql+psycopg"
_HIDDEN = "***"
_SHOWN_PARAMETERS = {"host", "port", "user", "dbname", "service", "sslmode"}
_PLAIN = re.compile(r"[\w./\\-]*")
_IN_URL = re.compile(r"(://[^\s:/@]*:)\S*@")
_IN_CONNECTION_STRING = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)


class DatabaseUrlError(UserError):
    """An address of no database that a study can be kept in."""


def database_url(text: str) -> URL:
    """Read the address of a study's database.

    Raises:
        DatabaseUrlError: It is none, or of an engine whose locks claims know nothing of.
    """
    url = _parsed(text)
    if url is None:
        raise DatabaseUrlError(
            f"storage must be sqlite:///FILE or postgresql://USER@HOST/DATABASE, got {shown(text)}"
            " (in a password, @ is written %40, : %3A and / %2F)"
        )
    engine, _, driver = url.drivername.partition("+")
    if engine == "sqlite" and driver in ("", "pysqlite"):
        return url
    if engine in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return url.set(drivername=_PSYCOPG)
    raise DatabaseUrlError(f"storage must be sqlite or postgresql, got {url.drivername}")


def sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite address; None for a database in memory."""
    name = url.database or ""
    if name.startswith("file:"):  # a URI of SQLite's own
        path, _, parameters = name.removeprefix("file:").partition("?")
        in_memory = "mode=memory" in parameters or url.query.get("mode") == "memory"
        name = ":memory:" if in_memory else path
    return None if name in ("", ":memory:") else Path(name)


def has_password(text: str) -> bool:
    """Tell whether an address holds a password; one that cannot be read may."""
    url = _parsed(text)
    if url is None:
        return _PLAIN.fullmatch(text) is None
    return bool(url.password) or any("password" in name.lower() for name in url.query)


def shown(text: str) -> str:
    """Return an address as it may be seen by all."""
    url = _parsed(text)
    if url is None:  # nobody can say what of it is the password
        engine, found, _ = text.partition("://")
        return text if _PLAIN.fullmatch(text) else f"{engine if found else ''}{found}{_HIDDEN}"
    if url.drivername.startswith("sqlite"):
        return text
    query = {
        name: value if name in _SHOWN_PARAMETERS else _HIDDEN for name, value in url.query.items()
    }
    if url.password is not None:
        url = url.set(password="x")  # an empty one is hidden, too
    return url.set(query=query).render_as_string(hide_password=True).replace("%2A", "*")


def without_passwords(text: str) -> str:
    """Return what an error says, less the passwords in addresses and connection strings."""
    return _IN_CONNECTION_STRING.sub(rf"\1{_HIDDEN}", _IN_URL.sub(rf"\1{_HIDDEN}@", text))


def _parsed(text: str) -> URL | None:
    """Read an address; None if it is none, or an unescaped password spills into its parts."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return None
    spilled = "@" in (url.host or "") or "@" in (url.database or "")
    return None if spilled and not url.drivername.startswith("sqlite") else url
