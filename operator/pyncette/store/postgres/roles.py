"""Creates the roles of the operator and of the workers in a database of their own: neither is a superuser."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Administrator
from pyncette.store.postgres.connection import PostgresConnections
from pyncette.store.postgres.schema import Tables
from pyncette.store.postgres.scram import is_verifier_of, verifier_of
from pyncette.store.postgres.statements import session_of

GRANT_SECONDS: Final = 60.0
"""A worker of before may hold a lock on a table whose owner changes."""

STORED: Final = "SELECT rolpassword, rolsuper FROM pg_authid WHERE rolname = $1"

FOREIGN: Final = """
    SELECT format('%I', relname) FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')
        AND format('%I', relname) = ANY($1) AND pg_get_userbyid(relowner) <> $2"""
"""The tables that another role owns, since they were created before these roles."""

EXISTING: Final = "SELECT to_regclass($1) IS NOT NULL"


class Login(NamedTuple):
    """A role, and its password."""

    name: str
    password: str

    @property
    def quoted(self) -> str:
        return '"{}"'.format(self.name.replace('"', '""'))


def grants(tables: Tables, worker: str) -> str:
    """Return the statements that give the role *worker*, which is quoted, all rights that a worker needs."""
    return f"""\
GRANT SELECT, INSERT, UPDATE, DELETE ON {tables.records}, {tables.history} TO {worker};
GRANT SELECT, INSERT, DELETE ON {tables.names} TO {worker};
GRANT SELECT, INSERT ON {tables.partitions} TO {worker};
GRANT SELECT ON {tables.meta} TO {worker};
GRANT USAGE ON SEQUENCE {tables.ids} TO {worker};
"""


class PostgresRoles:
    """
    The role of the URL *owner*, which owns the tables, and that of the URL *worker*, which writes their rows.

    *administrator* is a superuser, whom nobody else needs. Raises ConfigurationError for a URL without a role of its own,
    and when it finds that the role of a URL is a superuser.
    """

    def __init__(self, owner: str, worker: str, administrator: Administrator, tables: Tables) -> None:
        self._owner = _login_in(owner, "the URL of the operator")
        self._worker = _login_in(worker, "the URL of the workers")
        self._tables = tables
        if self._owner.name == self._worker.name:
            raise ConfigurationError(
                f"the operator and the workers have the same role {self._owner.name}: name another one in one of their URLs"
            )
        self._connections = PostgresConnections(_url_for(administrator, owner), session_of(tables))

    async def create(self) -> None:
        """Create the roles, or give them the passwords of their URLs, and the owner all tables. Raises StoreError."""
        try:
            script = "".join([await self._login(role) for role in (self._owner, self._worker)])
            script += "".join(
                f"ALTER TABLE {name} OWNER TO {self._owner.quoted};\n" for name in await self._foreign()
            )
            await self._connections.run_script(
                f"""{script}
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO {self._owner.quoted};
GRANT USAGE ON SCHEMA public TO {self._worker.quoted};""",
                GRANT_SECONDS,
            )
        finally:
            await self._connections.close()

    async def grant(self) -> None:
        """Give the role of the workers its rights on rows, if the tables exist. Raises StoreError."""
        try:
            ((is_there,),) = await self._connections.rows((EXISTING, self._tables.meta))
            if is_there:
                await self._connections.run_script(grants(self._tables, self._worker.quoted), GRANT_SECONDS)
        finally:
            await self._connections.close()

    async def _login(self, role: Login) -> str:
        """Return the statement that lets *role* log in with its password; empty if it can already."""
        found = await self._connections.rows((STORED, role.name))
        if not found:
            return (
                f"CREATE ROLE {role.quoted} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE "
                f"PASSWORD '{verifier_of(role.password)}';\n"
            )
        ((stored, is_superuser),) = found
        if is_superuser:
            raise ConfigurationError(
                f"{self._connections.place}: the role {role.name} is a superuser, which neither the operator nor the workers "
                "need: name another role in the URL, which the operator then creates"
            )
        if is_verifier_of(stored, role.password):
            return ""
        return f"ALTER ROLE {role.quoted} LOGIN PASSWORD '{verifier_of(role.password)}';\n"

    async def _foreign(self) -> list[str]:
        tables = self._tables
        ours = [tables.records, tables.names, tables.partitions, tables.history, tables.meta, tables.ids]
        names = [name.strip('"') for name in ours]
        return [name for (name,) in await self._connections.rows((FOREIGN, names, self._owner.name))]


def _login_in(url: str, what: str) -> Login:
    parts = urlsplit(url)
    login = Login(unquote(parts.username or ""), unquote(parts.password or ""))
    if not login.name or not login.password:
        raise ConfigurationError(
            f"{what} has no user or no password: write postgresql://USER:PASSWORD@HOST/…"
        )
    if not login.password.isascii():
        # Others are normalized before they are hashed, by rules of their own.
        raise ConfigurationError(f"the password in {what} must have ASCII characters alone")
    return login


def _url_for(administrator: Administrator, url: str) -> str:
    """Return *url* with the user and the password of *administrator*."""
    parts = urlsplit(url)
    user_info = ":".join(quote(part, safe="") for part in administrator)
    return urlunsplit(parts._replace(netloc=f"{user_info}@{parts.netloc.rpartition('@')[2]}"))
