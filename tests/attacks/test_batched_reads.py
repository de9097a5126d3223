"""The function that hands tokens out by the batch, called as the application's role itself: what
somebody could who gets to call it with rows of his own making.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
from conftest import MakeTenant, Tenant
from support.minting import minting
from support.sandbox import Provider

from vault.embedded import Embedded
from vault.model import new_id
from vault.vault import Vault

# What is called now, and what versions before go on calling.
CALLS: Final = [
    "select place, workspace_id from vault.token_hand_out($1, $2, $3, $4, $5)",
    "select place, workspace_id from vault.token_read($1, $2, $3, $4, $5)",
]


@pytest.fixture
async def application(migrated: Embedded) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(migrated.dsn("keyturn_app").reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def theirs(make_tenant: MakeTenant, provider: Provider) -> tuple[Tenant, str]:
    """Somebody else's workspace, and a connection in it."""
    async with minting(await make_tenant(), provider, upstream=False) as desk:
        await desk.user()
        await desk.connect()
        return desk.tenant, (await desk.connection())["id"]


async def read(application: Any, *rows: tuple[bytes | None, str | None]) -> list[Any]:
    """What is found, by either function."""
    count = len(rows)
    found, by_the_elder = [
        await application.fetch(
            call,
            [key_hash for key_hash, _ in rows],
            [connection for _, connection in rows],
            [new_id("evt") for _ in rows],
            [0] * count,
            ["req_attack"] * count,
        )
        for call in CALLS
    ]
    assert found == by_the_elder
    return list(found)


async def test_without_the_whole_hash_of_a_living_key_there_is_nothing(
    application: Any, vault: Vault, tenant: Tenant, theirs: tuple[Tenant, str]
) -> None:
    owner, connection = theirs
    mine, whole = vault.fingerprint(tenant.key), vault.fingerprint(owner.key)
    for wrong in (mine, whole[:-1], whole + b"\0", b"", b"%", None, bytes(32)):
        assert await read(application, (wrong, connection)) == [], wrong
    for nothing in (None, "", "%", "conn_%", owner.id):
        assert await read(application, (whole, nothing)) == [], nothing
    assert (await owner.api.get("/v1/audit-events?action=connection.token")).json["data"] == []
    assert (await tenant.api.get("/v1/audit-events?action=connection.token")).json["data"] == []
    [row] = await read(application, (whole, connection))
    assert row["workspace_id"] == owner.id


async def test_each_row_of_a_batch_is_bound_to_its_own_key(
    application: Any, vault: Vault, tenant: Tenant, theirs: tuple[Tenant, str]
) -> None:
    owner, connection = theirs
    mine, whole = vault.fingerprint(tenant.key), vault.fingerprint(owner.key)
    rows = await read(
        application, (mine, connection), (whole, connection), (mine, connection), (None, None)
    )
    assert [(one["place"], one["workspace_id"]) for one in rows] == [(2, owner.id)]


async def test_the_workspace_that_a_transaction_names_changes_nothing(
    application: Any, vault: Vault, tenant: Tenant, theirs: tuple[Tenant, str]
) -> None:
    owner, connection = theirs
    for name in (owner.id, tenant.id, "operator", ""):
        async with application.transaction():
            await application.execute("select set_config('keyturn.workspace', $1, true)", name)
            assert await read(application, (vault.fingerprint(tenant.key), connection)) == []
            rows = await read(application, (vault.fingerprint(owner.key), connection))
            assert [one["workspace_id"] for one in rows] == [owner.id]


@pytest.mark.parametrize("setting", ["search_path = 'pg_temp'", "row_security = off"])
async def test_what_a_session_sets_does_not_reach_into_it(
    application: Any,
    vault: Vault,
    tenant: Tenant,
    theirs: tuple[Tenant, str],
    setting: str,
) -> None:
    owner, connection = theirs
    async with application.transaction():
        await application.execute("create temporary table api_keys (hash bytea) on commit drop")
        await application.execute(f"set local {setting}")
        mine = (vault.fingerprint(tenant.key), connection)
        try:
            async with application.transaction():
                assert await read(application, mine) == []
        except asyncpg.InsufficientPrivilegeError:
            assert setting == "row_security = off"  # what would have to be filtered is refused
            return
        rows = await read(application, (vault.fingerprint(owner.key), connection))
        assert [one["workspace_id"] for one in rows] == [owner.id]


async def test_only_the_application_may_call_it(migrated: Embedded) -> None:
    worker = await asyncpg.connect(migrated.dsn("keyturn_worker").reveal())
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await read(worker, (bytes(32), "conn"))
    finally:
        await worker.close()


async def test_nobody_notes_by_himself_what_is_in_use(application: Any) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await application.fetch("select vault.token_in_use('{ws}', '{conn}', '{key}', '{0}')")


async def test_another_environment_is_another_place(
    application: Any, vault: Vault, theirs: tuple[Tenant, str]
) -> None:
    owner, connection = theirs
    for environments, seen in ((["staging"], 0), (["staging", "production"], 1)):
        body = {"name": "k", "scopes": ["tokens:read"], "environments": environments}
        key = (await owner.api.post("/v1/keys", body)).json["key"]
        assert len(await read(application, (vault.fingerprint(key), connection))) == seen
