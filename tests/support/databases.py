"""Databases of a test's own, on the worker's server."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from broker.migrations import PARTS
from vault.embedded import DATABASE, Embedded
from vault.migrations import Login, migrate
from vault.secret import Secret


@asynccontextmanager
async def empty_database(postgres: Embedded) -> AsyncIterator[Secret]:
    """The superuser's address of one with nothing in it."""
    name = f"own_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn().reveal())
    await admin.execute(f'create database "{name}"')
    yield address(postgres, name)
    await admin.execute(f'drop database "{name}" with (force)')
    await admin.close()


@asynccontextmanager
async def migrated_database(postgres: Embedded) -> AsyncIterator[Any]:
    """A superuser's connection to one with the whole schema."""
    async with empty_database(postgres) as owner:
        login = address(postgres, name_in(owner), "keyturn_app")
        await migrate(owner, [Login(login, "keyturn_app")], parts=PARTS)
        connection = await asyncpg.connect(owner.reveal())
        yield connection
        await connection.close()


def address(postgres: Embedded, name: str, user: str | None = None) -> Secret:
    """The address of another database of the server, for its superuser or ``user``."""
    usual = (postgres.dsn(user) if user else postgres.dsn()).reveal()
    return Secret(usual.replace(f"/{DATABASE}?", f"/{name}?"))


def name_in(of: Secret) -> str:
    """The name of the database that an address leads to."""
    return of.reveal().rpartition("@/")[2].partition("?")[0]
