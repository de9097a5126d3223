"""Nobody sees, changes or infers what is another workspace's: every route, caller and id."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from conftest import MakeTenant, Tenant
from support import matrix
from support.api import Running
from support.attacks import ATTACKS, PLAIN, PUBLIC, Attack
from support.matrix import WALLS, Field

from broker.settings import Settings
from vault.consent import Stage
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.model import Profile, UserId, new_id
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.invitations import Invitation

# In a path, and nobody's here: a number is the account's at ElevenLabs (test_telephone.py).
NOT_OF_A_WORKSPACE = {"provider_id", "resource_type", "phone_number_id"}
EVERY = [(route, number) for route, attacks in ATTACKS.items() for number in range(len(attacks))]


@pytest.fixture(scope="module", params=WALLS)
async def field(
    request: pytest.FixtureRequest, postgres: Embedded, root_key_file: Path, settings: Settings
) -> AsyncIterator[Field]:
    """A deployment with both walls; with the statements' conditions alone; with the policies."""
    root = open_root_key(root_key_file.as_uri())
    async with matrix.field(postgres, root, settings, request.param) as opened:
        yield opened


def test_every_route_is_attacked(service: Running) -> None:
    actions = matrix.actions_of(service.service.app)
    for route, action in actions.items():
        assert route in ATTACKS, f"{route} is new: add how to call it to ATTACKS in attacks.py"
        assert action or route in PUBLIC, f"{route} has no guard: give it guards=requires(...)"
        assert not (action and route in PUBLIC), f"{route} has a guard: take it out of PUBLIC"
    for route in ATTACKS:
        assert route in actions, f"{route} is gone: take it out of ATTACKS in attacks.py"


def test_every_id_that_a_route_takes_is_attacked(service: Running) -> None:
    inputs = matrix.inputs_of(service.service.app)
    for route, attacks in ATTACKS.items():
        for name in re.findall(r"\{([a-z_]+):str\}", route):
            told = any(one.kind and name not in one.path for one in attacks)
            assert told or name in NOT_OF_A_WORKSPACE, (
                f"{route} has {name} in its path: say its kind"
            )
        path = re.sub(r":str\}", "}", route)
        queries = {part.partition("=")[0] for one in attacks for part in one.query.split("&")}
        bodies = {name for one in attacks for name in one.body or {}}
        for name in inputs[path] - PLAIN - queries - bodies:
            pytest.fail(
                f"{route} takes {name!r}, which the matrix does not know: if it can name a thing "
                "of a workspace add an attack with it to ATTACKS, else add it to PLAIN"
            )


@pytest.mark.parametrize(("route", "number"), EVERY, ids=[f"{one}-{n}" for one, n in EVERY])
async def test_what_is_foreign_is_answered_like_what_never_was(
    field: Field, service: Running, route: str, number: int
) -> None:
    attack: Attack = ATTACKS[route][number]
    action = matrix.actions_of(service.service.app)[route]
    fight = await field.fight_about(route)
    for who in await fight.callers(action):
        if field.walls != "both" and not who.valid:
            continue  # who has no key is refused before any wall
        seen = await fight.strike(who, route, attack)
        expected = who.expected(action, attack.success)
        assert seen["own"].status == expected, f"{who.name} on its own: {seen['own'].body!r}"
        if "foreign" in seen:
            assert seen["foreign"] == seen["missing"], f"{who.name} can tell foreign from missing"
        if "shared" in seen:
            assert seen["shared"] == seen["own"], f"{who.name} sees that another has this user too"
        if "missing" in seen:
            allowed = expected == attack.success
            assert seen["missing"].status == (attack.missing if allowed else expected)
            assert allowed or seen["missing"] == seen["own"], f"{who.name} learns from a refusal"


async def test_an_idempotency_key_means_something_else_in_each_workspace(field: Field) -> None:
    fight = await field.fight()
    body, headers = {"name": "same", "scopes": ["mint"]}, {"Idempotency-Key": "the-same-in-both"}
    first, second = [
        (await side.api.post("/v1/keys", body, headers=headers)).json
        for side in (fight.ada, fight.bob)
    ]
    assert first["key"]
    assert second["key"]
    assert first["id"] != second["id"]
    for side, made in ((fight.ada, first), (fight.bob, second)):
        again = await side.api.post("/v1/keys", body, headers=headers)
        assert (again.status, again.json["id"], again.json["key"]) == (201, made["id"], None)


async def test_an_idempotency_key_of_one_caller_means_nothing_to_another(field: Field) -> None:
    fight = await field.fight()
    body, headers = {"name": "same", "scopes": ["mint"]}, {"Idempotency-Key": "of-one-caller"}
    mine = (await fight.ada.api.post("/v1/keys", body, headers=headers)).json
    other = await fight.ada.lacking("audit:read")
    theirs = (await other.post("/v1/keys", body, headers=headers)).json
    assert mine["id"] != theirs["id"]
    assert theirs["key"]


async def test_a_deleted_workspace_takes_its_own_things_and_no_others(field: Field) -> None:
    fight = await field.fight()
    before = await field.inside.rows(fight.bob.workspace)
    deleted = await field.operator.delete(f"/v1/workspaces/{fight.ada.workspace}")
    assert deleted.status == 204
    assert await field.inside.rows(fight.bob.workspace) == before
    left = await field.inside.rows(fight.ada.workspace)
    assert left.keys() == {"vault.audit_events", "vault.idempotency"}
    assert (await fight.ada.api.get("/v1/users")).status == 401
    assert (await fight.bob.api.get("/v1/users")).status == 200


# What hangs on a link, a state or a code, and on the environment of a key


async def test_what_was_begun_in_one_workspace_completes_nothing_in_another(
    tenant: Tenant, stranger: Tenant, vault: Vault
) -> None:
    browser = Secret("b" * 43)
    sessions, codes = {}, {}
    for one in (tenant, stranger):
        await one.api.put("/v1/integrations/keys", {"provider": "api-key"})
        body = {"user_id": "ada", "return_url": "http://127.0.0.1/back"}
        made = (await one.api.post("/v1/connect-sessions", body)).json
        link = made["url"].rpartition("/")[2]
        stage = await vault.begin(link, "keys", browser, {"api_key": Secret(f"key of {one.id}")})
        assert isinstance(stage, Stage)
        assert stage.code is not None
        sessions[one.id], codes[one.id] = made["id"], stage.code.reveal()
    code = {"code": codes[tenant.id], "user_id": "ada"}
    for session in (sessions[tenant.id], sessions[stranger.id], "cs_" + "0" * 26):
        reply = await stranger.api.post(f"/v1/connect-sessions/{session}/complete", code)
        assert (reply.status, reply.code) == (404, "not_found")
    assert [one["state"] for one in (await stranger.api.get("/v1/connections")).json["data"]] == [
        "pending"
    ]
    done = await tenant.api.post(f"/v1/connect-sessions/{sessions[tenant.id]}/complete", code)
    assert (done.status, done.json["state"]) == (200, "active")
    assert [one["state"] for one in (await stranger.api.get("/v1/connections")).json["data"]] == [
        "pending"
    ]


async def test_a_link_of_one_workspace_offers_nothing_of_another(
    tenant: Tenant, stranger: Tenant, vault: Vault
) -> None:
    for one, name in ((tenant, "mine"), (stranger, "theirs")):
        await one.api.put(f"/v1/integrations/{name}", {"provider": "api-key"})
    made = (await tenant.api.post("/v1/connect-sessions", {"user_id": "ada"})).json
    link = made["url"].rpartition("/")[2]
    opened = await vault.open_link(link)
    assert isinstance(opened, Invitation)
    assert [one.integration for one in opened.items] == ["mine"]
    typed = {"api_key": Secret("k")}
    assert await vault.begin(link, "theirs", Secret("b" * 43), typed) == "expired"


async def test_a_key_of_another_environment_reaches_no_connection(tenant: Tenant) -> None:
    api = tenant.api
    await api.put("/v1/integrations/keys", {"provider": "api-key"})
    path = "/v1/users/ada/connections/keys"
    theirs, body = f"{path}?environment=production", {"api_key": "k", "environment": "production"}
    connection = (await api.put(path, body)).json["id"]
    session = (await api.post("/v1/connect-sessions", {"user_id": "ada"})).json["id"]
    scopes = {"name": "s", "scopes": ["manage", "connect"], "environments": ["staging"]}
    staging = api.with_key((await api.post("/v1/keys", scopes)).json["key"])
    assert (await staging.get("/v1/connections")).json["data"] == []
    assert (await staging.get("/v1/users/ada/connections")).json["data"] == []
    code = {"code": "x", "user_id": "ada"}
    line = {"user_id": "ada", "integration": "keys", **body}
    bulk = await staging.post("/v1/connections/import", line, headers=matrix.LINES)
    assert (bulk.json["ok"], bulk.json["code"]) == (False, "forbidden")
    expected = {
        ("GET", "/v1/connections?environment=production"): 403,
        ("GET", f"/v1/connections/{connection}"): 404,
        ("DELETE", f"/v1/connections/{connection}"): 404,
        ("GET", path): 404,
        ("GET", theirs): 403,
        ("DELETE", path): 404,
        ("DELETE", theirs): 403,
        ("PUT", path): 403,
        ("POST", "/v1/connect-sessions"): 403,
        ("POST", f"/v1/connect-sessions/{session}/complete"): 404,
        ("PUT", "/v1/integrations/keys"): 403,
        ("DELETE", "/v1/integrations/keys"): 403,
        ("POST", "/v1/integrations/keys/check"): 403,
        ("DELETE", "/v1/users/ada"): 403,
    }
    bodies = {
        ("PUT", path): body,
        ("POST", "/v1/connect-sessions"): {"user_id": "ada", "environment": "production"},
        ("POST", f"/v1/connect-sessions/{session}/complete"): code,
        ("PUT", "/v1/integrations/keys"): {"provider": "api-key"},
        ("POST", "/v1/integrations/keys/check"): {"environment": "production"},
    }
    for (method, where), status in expected.items():
        reply = await staging.call(method, where, body=bodies.get((method, where)))
        assert reply.status == status, f"{method} {where}: {reply.body!r}"
    assert (await staging.put(path, {**body, "environment": "staging"})).status == 200
    assert (await api.get(f"/v1/connections/{connection}")).json["generation"] == 1


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("where workspace_id = $1 and x = $2", "where ($1::text is not null) and x = $2"),
        ("where u.workspace_id = $12", "where ($12::text is not null)"),
        ("on k.workspace_id = u.workspace_id and true", "on true and true"),
        ("insert into t (workspace_id) values ($1)", "insert into t (workspace_id) values ($1)"),
        ("on conflict (workspace_id) do nothing", "on conflict (workspace_id) do nothing"),
    ],
)
def test_a_statement_can_be_taken_without_its_workspace(written: str, left: str) -> None:
    assert matrix.without_workspace(written) == left


@pytest.mark.parametrize("written", ["workspace_id in ($1)", "workspace_id = any($1)"])
def test_a_condition_that_cannot_be_taken_out_is_not_overlooked(written: str) -> None:
    with pytest.raises(AssertionError):
        matrix.without_workspace(written)


# The application's role itself, with nothing of ours around it: what an injected statement could


TRICKS = {
    "says nothing": "select 1",
    "says nothing on purpose": "set local keyturn.workspace = ''",
    "says a pattern": "set local keyturn.workspace = '%'",
    "says it is the operator": "set local keyturn.workspace = 'operator'",
    "says it in another case": "set local keyturn.workspace = '{upper}'",
    "says both": "set local keyturn.workspace = '{bob},{ada}'",
    "says null": "select set_config('keyturn.workspace', null, true)",
    "turns it off": "set local row_security = off",
    "becomes the owner": "set local role keyturn_owner",
    "becomes the look-up": "set local role keyturn_auth",
    "becomes the backup": "set local role keyturn_backup",
    "becomes the superuser": "set local role postgres",
    "begins as the superuser": "set local session authorization postgres",
    "alters the table": "alter table vault.users disable row level security",
    "alters the policy": "alter policy own_workspace on vault.users using (true)",
    "drops the policy": "drop policy own_workspace on vault.users",
    "adds a policy": "create policy mine on vault.users using (true)",
    "alters itself": "alter role keyturn_app bypassrls",
    "takes the table": "alter table vault.users owner to keyturn_app",
    "grants itself": "grant keyturn_owner to keyturn_app",
    "makes a view": "create view vault.peek as select user_id from vault.users",
    "makes a function": "create function vault.peek() returns int language sql as 'select 1'",
    "empties the table": "truncate vault.users cascade",
    "takes the file": "select pg_read_file('PG_VERSION')",
    "runs a program": "copy vault.users to program 'cat'",
    "writes a file": "copy vault.users to '/tmp/never'",
}
QUESTIONS = {
    "all": "select user_id from vault.users",
    "by id": "select user_id from vault.users where user_id = 'bob'",
    "by workspace": "select user_id from vault.users where workspace_id = '{bob}'",
    "by join": "select k.key_id from vault.users u right join vault.api_keys k"
    " on true where k.workspace_id = '{bob}'",
    "by union": "select user_id from vault.user_keys union select wrapped::text"
    " from vault.workspace_keys where workspace_id = '{bob}'",
    "by statistics": "select most_common_vals::text from pg_stats where schemaname = 'vault'"
    " and tablename = 'users'",
    "by change": "update vault.users set profile = '' where user_id = 'bob' returning user_id",
    "by removal": "delete from vault.users where workspace_id = '{bob}' returning user_id",
}


PEEK = """
create function pg_temp.peek(seen text) returns boolean language plpgsql cost 0.0000001
as $$ begin raise notice '%', seen; return true; end $$
"""
# Two statements each: one about what another workspace has, one about what nobody has.
PROBES = {
    "a foreign key to another's user": (
        "insert into vault.user_keys values ('{ada}', 'bob', '')",
        "insert into vault.user_keys values ('{ada}', 'nobody', '')",
    ),
    "a foreign key as another": (
        "insert into vault.user_keys values ('{bob}', 'bob', '')",
        "insert into vault.user_keys values ('{bob}', 'nobody', '')",
    ),
    "a row in a workspace": (
        "insert into vault.users values ('{bob}', 'new', 1, '')",
        "insert into vault.users values ('{missing}', 'new', 1, '')",
    ),
    "a user in a workspace": (
        "insert into vault.users values ('{bob}', 'bob', 1, '')",
        "insert into vault.users values ('{bob}', 'nobody', 1, '')",
    ),
    "a workspace": (
        "insert into vault.workspaces (workspace_id, name) values ('{bob}', 'x')",
        "insert into vault.workspaces (workspace_id, name) values ('{missing}', 'x')",
    ),
    "a conflict": (
        "insert into vault.users values ('{bob}', 'bob', 1, '') on conflict do nothing",
        "insert into vault.users values ('{bob}', 'nobody', 1, '') on conflict do nothing",
    ),
    "a move": (
        "update vault.users set workspace_id = '{bob}' where user_id = 'same'",
        "update vault.users set workspace_id = '{missing}' where user_id = 'same'",
    ),
    "an error": (
        "select 1 / (case when user_id = 'bob' then 0 else 1 end) from vault.users",
        "select 1 / (case when user_id = 'nobody' then 0 else 1 end) from vault.users",
    ),
    "a key's hash": (
        "update vault.api_keys set last_used_at = now() where workspace_id = '{bob}'",
        "update vault.api_keys set last_used_at = now() where workspace_id = '{missing}'",
    ),
}
Connection = Any  # asyncpg ships no types


@pytest.fixture(scope="module")
async def application(migrated: Embedded) -> AsyncIterator[Connection]:
    """A connection of the application's role."""
    connection = await asyncpg.connect(migrated.dsn("keyturn_app").reveal())
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def names(make_tenant: MakeTenant, vault: Vault) -> dict[str, str]:
    """Two workspaces with one user of the same id and one of their own; and one that never was."""
    found = {"missing": new_id("ws")}
    for own in ("ada", "bob"):
        tenant = await make_tenant()
        found[own] = tenant.id
        for user in ("same", own):
            await vault.put_user(tenant.caller, UserId(user), Profile())
    return found | {"upper": found["bob"].upper()}


async def said(connection: Connection, *statements: str) -> tuple[str, list[Any]]:
    """What the server answers to these in one transaction: an error without its quotes, or rows."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return "rows", [tuple(row) for row in await connection.fetch(statements[-1])]
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate} {error.constraint_name} {error.detail}", []
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_trick_shows_another_workspace(
    application: Connection, names: dict[str, str], trick: str
) -> None:
    as_ada = f"set local keyturn.workspace = '{names['ada']}'"
    for question, statement in QUESTIONS.items():
        words = (filled(TRICKS[trick], names), filled(statement, names))
        for first in ("select 1", as_ada):
            _, rows = await said(application, first, *words)
            assert not {row[0] for row in rows} - {"ada", "same"}, f"{question} after {first}"


@pytest.mark.parametrize("probe", PROBES)
async def test_no_probe_tells_what_another_has_from_what_nobody_has(
    application: Connection, names: dict[str, str], probe: str
) -> None:
    as_ada = f"set local keyturn.workspace = '{names['ada']}'"
    one, other = [
        await said(application, as_ada, filled(statement, names)) for statement in PROBES[probe]
    ]
    hide = str.maketrans({"'": ""})
    strip = [text.replace("bob", "nobody").translate(hide) for text in (one[0], other[0])]
    assert strip[0] == strip[1]
    assert one[1] == other[1]


async def test_a_function_that_tells_what_it_sees_sees_no_other_workspace(
    application: Connection, names: dict[str, str]
) -> None:
    heard: list[str] = []

    def listen(_connection: Connection, message: Any) -> None:
        heard.append(message.message)

    application.add_log_listener(listen)
    as_ada = f"set local keyturn.workspace = '{names['ada']}'"
    peek = "select user_id from vault.users where pg_temp.peek(user_id)"
    await said(application, as_ada, PEEK, peek)
    application.remove_log_listener(listen)
    assert set(heard) == {"ada", "same"}


def filled(statement: str, names: dict[str, str]) -> str:
    return statement.format(**names)
