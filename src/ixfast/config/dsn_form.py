"""What is wrong with a text that is not the URL of a PostgreSQL database: another scheme, or more than the URL was copied.

A message never contains a part of the text, which has the password, except the name of a scheme that is known here.
"""

from __future__ import annotations

import re

FORM = "a URL of the form postgresql://user:password@host:port/database"
_SCHEMES = ("postgresql://", "postgres://")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
_BRACKETS = tuple("<([{")
_ASSIGNMENT = re.compile(r"(?:export\s+|set\s+|\$env:)?[a-z_][a-z0-9_]*\s*=\s*(?=[\"'`]?[a-z][a-z0-9+.:-]*://)", re.IGNORECASE)
_COMMAND = re.compile(r"psql\s", re.IGNORECASE)
_KEYWORDS = re.compile(r"\s*(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=", re.IGNORECASE)
_SCHEME = re.compile(r"(?P<jdbc>jdbc:)?(?P<name>[A-Za-z][A-Za-z0-9.-]*)(?P<driver>\+[A-Za-z0-9_.+-]*)?:", re.IGNORECASE)
_OTHERS = {
    "mysql": "MySQL", "mysqlx": "MySQL", "mariadb": "MariaDB", "sqlite": "SQLite", "sqlite3": "SQLite", "file": "a file",
    "http": "HTTP", "https": "HTTP", "mongodb": "MongoDB", "redis": "Redis", "rediss": "Redis", "mssql": "SQL Server",
    "sqlserver": "SQL Server", "oracle": "Oracle", "cockroachdb": "CockroachDB", "cockroach": "CockroachDB", "duckdb": "DuckDB",
    "libsql": "libSQL", "clickhouse": "ClickHouse", "amqp": "AMQP",
}  # fmt: skip


def dsn_mistake(text: str) -> str | None:
    """What `dsn` must be instead of this text, as the end of a sentence; None if it is a URL of PostgreSQL.

    The rest of the URL is not checked (`store.connections.connection_string`).
    """
    text = text.strip()
    if len(text.splitlines()) > 1:
        return f"{FORM}, on one line and without comments"
    if text.startswith("#"):
        return f"{FORM}, not a comment"
    if text.startswith("\ufeff"):
        return f"{FORM}, without the byte order mark in front of it"
    if text.startswith(_SCHEMES) and any(scheme in text[1:] for scheme in _SCHEMES):
        return f"{FORM}, and only one"
    if text.startswith(_SCHEMES):
        ends_with_quote = text[-1] in "\"'`" and text.count(text[-1]) % 2 == 1
        return f"{FORM}, without the quote at its end" if ends_with_quote else None
    if command := _COMMAND.match(text):
        quotes = ", and without quotes" if text[command.end() :].lstrip()[:1] in _QUOTES or text[-1] in _QUOTES else ""
        return f"{FORM}, without the command psql in front of it{quotes}"
    if assignment := _ASSIGNMENT.match(text):
        quotes = ", and without quotes" if text[assignment.end() : assignment.end() + 1] in _QUOTES else ""
        return f"{FORM}, without the name and the = in front of it{quotes}"
    if text[:1] in _BRACKETS and text[1:].lstrip().startswith(_SCHEMES):
        return f"{FORM}, without brackets around it"
    if text[:1] in _QUOTES and text:
        return f"{FORM}, without quotes around it"
    if _KEYWORDS.match(text):
        return f"{FORM}, not a list of keywords such as host= and dbname="
    scheme = _SCHEME.match(text)
    name = scheme["name"].lower() if scheme is not None else ""
    if scheme is None or (not text.startswith("//", scheme.end()) and name not in _OTHERS):
        return FORM
    if name not in ("postgresql", "postgres"):
        of = f", and this is a URL of {_OTHERS[name]}" if name in _OTHERS else ""
        return f"{FORM}: ixfast needs PostgreSQL{of}"
    if scheme["jdbc"]:
        return f"{FORM}, without jdbc: in front of it"
    if scheme["driver"]:
        return f"{FORM}, without the name of a driver before ://"
    return f"{FORM}, with postgresql:// in lower-case letters"
