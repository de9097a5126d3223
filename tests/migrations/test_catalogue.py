"""The migrated schema keeps its rules, and the linter that says so can say otherwise."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.catalogue_lint import complaints
from support.databases import migrated_database

from vault.embedded import Embedded

POLICY = "using (workspace_id = current_setting('keyturn.workspace'))"
CHECK = f"with check {POLICY.removeprefix('using ')}"
# A table as it should be; each of the faults below is one word away from it.
GOOD = f"""
set local role keyturn_owner;
create table vault.things (
    workspace_id text not null references vault.workspaces on delete cascade,
    thing_id text not null,
    primary key (workspace_id, thing_id)
);
alter table vault.things enable row level security, force row level security;
create policy app on vault.things to keyturn_app using (true) with check (true);
create policy own_workspace on vault.things as restrictive to keyturn_app {POLICY} {CHECK};
grant select, insert on vault.things to keyturn_app;
grant select on vault.things to keyturn_backup;
"""

FAULTS = {
    # tables and their walls
    "create table vault.loose (id text primary key)": "vault.loose: has no 'workspace_id",
    "create table public.loose (id text primary key)": "loose: has no 'workspace_id",
    "create table vault.things (workspace_id text, id text primary key)": "vault.things: has no '",
    "drop table vault.schema_lock": "vault.schema_lock: is a global table and is gone",
    "alter table vault.users disable row level security": "vault.users: row-level security is not",
    "alter table vault.users no force row level security": "vault.users: row-level security is not",
    "drop policy own_workspace on vault.users": "vault.users: has no restrictive policy",
    "drop policy own_workspace_delete on vault.workspaces": "has no restrictive policy (d)",
    f"""drop policy own_workspace on vault.users;
        create policy own_workspace on vault.users as permissive to keyturn_app {POLICY} {CHECK}
    """: "vault.users: has no restrictive policy",
    f"""drop policy own_workspace on vault.users;
        create policy own_workspace on vault.users as restrictive for select to keyturn_app {POLICY}
    """: "vault.users: has no restrictive policy",
    f"""drop policy own_workspace on vault.users;
        create policy own_workspace on vault.users as restrictive to keyturn_app {POLICY}
    """: "vault.users: the restrictive policy own_workspace has another condition",
    """alter policy own_workspace on vault.users
        using (workspace_id = nullif(current_setting('keyturn.workspace', true), ''))
    """: "vault.users: the restrictive policy own_workspace has another condition",
    "alter policy own_workspace on vault.users with check (true)": "has another condition",
    """alter policy own_workspace on vault.workspaces
        with check (current_setting('keyturn.workspace') = 'operator')
    """: "vault.workspaces: the restrictive policy own_workspace has another condition",
    "create policy peek on vault.users to keyturn_worker using (true)": (
        "vault.users: peek for keyturn_worker: this way round"
    ),
    "create policy forget on vault.users for delete to keyturn_worker using (true)": (
        "vault.users: forget for keyturn_worker: deletes more than what is old"
    ),
    "alter policy worker_forgets on vault.audit_events using (true)": "deletes more than what is",
    "alter policy worker_forgets on vault.audit_seals using (sealed_at < now())": "deletes more",
    "create policy peek on vault.users to public using (true)": "peek for PUBLIC: this way round",
    "drop policy lookup_bearer on vault.api_keys": "lookup_bearer for keyturn_auth: is on the list",
    # keys
    "create unique index hashes on vault.api_keys (hash)": "the unique index vault.hashes does not",
    "alter table vault.users add unique (user_id)": "does not begin with workspace_id",
    "alter table vault.users add unique (user_id, workspace_id)": "does not begin with workspace",
    "alter table vault.idempotency drop constraint idempotency_pkey": "has no primary key",
    """create table vault.parts (workspace_id text not null, n int not null, thing text,
        primary key (workspace_id, n)); alter table vault.deployment add unique (deployment_id);
        alter table vault.parts add foreign key (thing) references vault.deployment (deployment_id)
    """: "vault.parts: the foreign key parts_thing_fkey does not lead",
    # things that are not there
    "create view vault.all_users as select user_id from vault.users": "is a view without security",
    "create materialized view vault.old as select user_id from vault.users": "is a materialized",
    "create sequence vault.numbers": "vault.numbers: is a sequence",
    "alter table vault.users add n bigint generated always as identity": "is a sequence",
    """create trigger rewrite before update on vault.users
        for each row execute function suppress_redundant_updates_trigger()
    """: "vault.users: has the trigger rewrite",
    "create table vault.kin () inherits (vault.users)": "vault.kin: inherits",
    "alter table vault.api_keys add exclude using hash (name with =)": "excludes",
    "alter table vault.api_keys add unique (workspace_id, name) deferrable": "is deferrable",
    "create rule quiet as on delete to vault.users do instead nothing": "has the rule quiet",
    # functions
    """create function vault.peek() returns bigint language sql security definer
        begin atomic select count(*) from vault.users; end
    """: "vault.peek(): this function is not on the list",
    "alter function vault.lookup_bearer(bytea) owner to keyturn_owner": (
        "does not run as keyturn_auth"
    ),
    "alter function vault.lookup_bearer(bytea) security invoker": "does not run as keyturn_auth",
    "alter function vault.lookup_bearer(bytea) reset search_path": "its search path is not pinned",
    "alter function vault.lookup_bearer(bytea) set search_path = public": (
        "its search path is not pinned"
    ),
    "grant execute on function vault.lookup_bearer(bytea) to keyturn_worker": "can be called by",
    "grant execute on function vault.lookup_bearer(bytea) to public": "PUBLIC has EXECUTE",
    "drop function vault.lookup_bearer(bytea)": "lookup_bearer(bytea): is on the list and is gone",
    # roles
    "alter role keyturn_app superuser": "keyturn_app: is a superuser",
    "alter role keyturn_worker bypassrls": "keyturn_worker: bypasses row-level security",
    "alter role keyturn_auth bypassrls": "keyturn_auth: bypasses row-level security",
    "alter role keyturn_owner createrole": "keyturn_owner: can make roles",
    "alter role keyturn_mint bypassrls": "keyturn_mint: bypasses row-level security",
    "alter function vault.mint_look(bytea[], text[], text[], text[]) reset search_path": (
        "its search path is not pinned"
    ),
    "grant execute on function vault.token_hand_out(bytea[], text[], text[], integer[], text[])"
    " to keyturn_worker": "can be called by ['keyturn_app', 'keyturn_worker']",
    "grant execute on function vault.token_in_use(text[], text[], text[], integer[])"
    " to keyturn_app": "can be called by ['keyturn_app'], not by its owner alone",
    "alter function vault.token_in_use(text[], text[], text[], integer[]) security definer": (
        "does not run as keyturn_mint"
    ),
    "grant select on vault.secrets to keyturn_mint": "vault.secrets: keyturn_mint has SELECT",
    "grant update (kept) on vault.conversations to keyturn_mint": (
        "conversations.kept: keyturn_mint has UPDATE"
    ),
    "create policy mint on vault.secrets to keyturn_mint using (true)": (
        "mint for keyturn_mint: this way round"
    ),
    "grant keyturn_mint to keyturn_app": "keyturn_app in keyturn_mint: this membership",
    "alter role keyturn_backup replication": "keyturn_backup: can replicate",
    "create role passer_by; grant select on vault.users to passer_by": "passer_by has SELECT",
    "create role passer_by; grant usage on schema vault to passer_by": "passer_by has USAGE",
    "grant keyturn_owner to keyturn_app": "keyturn_app in keyturn_owner: this membership",
    "grant keyturn_auth to keyturn_app": "keyturn_app in keyturn_auth: this membership",
    "grant pg_read_server_files to keyturn_worker": "keyturn_worker in pg_read_server_files",
    "alter table vault.users owner to keyturn_app": "vault.users: belongs to keyturn_app",
    "alter schema vault owner to postgres": "the schema vault: belongs to postgres",
    # rights
    "grant truncate on vault.users to keyturn_app": "vault.users: keyturn_app has TRUNCATE",
    "grant references on vault.users to keyturn_app": "vault.users: keyturn_app has REFERENCES",
    "grant trigger on vault.users to keyturn_app": "vault.users: keyturn_app has TRIGGER",
    "grant create on schema vault to keyturn_app": "the schema vault: keyturn_app has CREATE",
    "grant create on schema public to keyturn_app": "the schema public: keyturn_app has CREATE",
    "grant create on schema vault to keyturn_auth": "the schema vault: keyturn_auth has CREATE",
    "grant update on vault.audit_events to keyturn_app": "audit_events: keyturn_app has UPDATE",
    "grant update (outcome) on vault.audit_events to keyturn_app": "audit_events.outcome: keyturn",
    "grant delete on vault.audit_notes to keyturn_worker": "audit_notes: keyturn_worker has DELETE",
    "grant delete on vault.audit_events to keyturn_app": "audit_events: keyturn_app has DELETE",
    "grant select on vault.api_keys to keyturn_auth": "vault.api_keys: keyturn_auth has SELECT",
    "grant select (name) on vault.api_keys to keyturn_auth": "api_keys.name: keyturn_auth has",
    "grant update (scopes) on vault.api_keys to keyturn_auth": "api_keys.scopes: keyturn_auth has",
    "grant select on vault.users to keyturn_worker": "vault.users: keyturn_worker has SELECT",
    "grant insert on vault.users to keyturn_backup": "vault.users: keyturn_backup has INSERT",
    "grant select on vault.deployment to public": "vault.deployment: PUBLIC has SELECT",
    "grant select (name) on vault.workspaces to public": "workspaces.name: PUBLIC has SELECT",
    "grant usage on schema vault to public": "the schema vault: PUBLIC has USAGE",
    "grant create on schema public to public": "the schema public: PUBLIC has CREATE",
    "alter default privileges in schema vault grant select on tables to public": "PUBLIC will have",
}


@pytest.fixture(scope="module")
async def admin(postgres: Embedded) -> AsyncIterator[Any]:
    """A superuser in a migrated database of this module's own."""
    async with migrated_database(postgres) as connection:
        yield connection


async def after(admin: Any, change: str) -> list[str]:
    """What the linter says after a change that is then taken back."""
    transaction = admin.transaction()
    await transaction.start()
    try:
        await admin.execute(change)
        await admin.execute("reset role")
        return await complaints(admin)
    finally:
        await transaction.rollback()


async def test_the_migrated_schema_keeps_its_rules(admin: Any) -> None:
    assert await complaints(admin) == []


async def test_a_new_table_that_keeps_them_is_fine(admin: Any) -> None:
    assert await after(admin, GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"), FAULTS.items(), ids=[" ".join(one.split())[:70] for one in FAULTS]
)
async def test_a_broken_rule_is_said(admin: Any, change: str, said: str) -> None:
    sentences = await after(admin, change)
    assert any(said in one for one in sentences), sentences


async def test_nothing_of_a_fault_is_left(admin: Any) -> None:
    assert await complaints(admin) == []
