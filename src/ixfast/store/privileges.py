"""Two roles for one database: an owner that migrates and maintains it, and one for servers, which can create and alter nothing.

The statements are in `sql/privileges.sql`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixfast.errors import ConfigurationError
from ixfast.store.queries import load


class UnknownRoleError(ConfigurationError):
    """The server has no such role."""


class NotOwnerError(ConfigurationError):
    """The role does not own the tables."""


async def grant_to(connection: Any, role: str) -> None:
    """Grant a role what a server needs. Raises UnknownRoleError."""
    sql = load("privileges")
    names = await connection.fetchrow(sql["identifiers"], role)
    if names["role"] is None:
        raise UnknownRoleError(f'The server has no role "{role}". Create it first: CREATE ROLE {role} LOGIN PASSWORD …')
    async with connection.transaction():
        await connection.execute(sql["grants"].format(**dict(names)))


async def missing(connection: Any) -> list[str]:
    """The privileges that this role lacks and a server needs, such as "INSERT on scan_log"."""
    return [row["what"] for row in await connection.fetch(load("privileges")["missing"])]


def denied(role: Mapping[str, Any], text: str) -> str:
    """The message for a role that may not do what a migration or a command needs. `text` is the server's message."""
    name, schema, database = role["role"], role["schema"], role["database"]
    if role["owner"] is not None and not role["owns"]:
        return (
            f"The role {name} may not do this ({text}): {role['owner']} owns the tables. Run `ixfast migrate` as that role; with "
            f"--grant-to {name} it also grants {name} what a server needs."
        )
    if schema is None:
        return f"The role {name} has no schema to create tables in: its search_path names none that exists in {database}."
    if not role["may_create"]:
        return (
            f"The role {name} may not create tables in the schema {schema} of {database}, which belongs to "
            f"{role['database_owner']}. Make it the owner (ALTER DATABASE {database} OWNER TO {name}), or give it a schema of "
            f"its own (CREATE SCHEMA ixfast AUTHORIZATION {name}; ALTER ROLE {name} SET search_path = ixfast)."
        )
    return f"The role {name} may not do this: {text}."


async def require_owner(connection: Any) -> None:
    """Raise NotOwnerError unless this role owns the tables."""
    role = await connection.fetchrow(load("privileges")["role"])
    if not role["owns"]:
        raise NotOwnerError(f"The role {role['role']} does not own the tables. Run this command as {role['owner']}.")
