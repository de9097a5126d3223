"""The record: every change leaves exactly one line, in its own transaction, and names nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from support.api import Api

from vault.access import ACTIONS
from vault.consent import Import, NewSession, Registration
from vault.embedded import Embedded
from vault.errors import VaultError
from vault.model import OPERATOR, Caller, NewKey, Profile, SettingsOf, UserId
from vault.secret import Secret
from vault.vault import Vault


async def events(api: Api, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(f"/v1/audit-events?limit=100{query}")).json["data"]
    return found


async def actions(api: Api) -> list[str]:
    """Oldest first, without the two lines of the workspace's own making."""
    return [event["action"] for event in reversed(await events(api))][2:]


async def test_every_change_leaves_one_line_and_no_reading_does(tenant: Tenant) -> None:
    api = tenant.api
    made = (await api.post("/v1/keys", {"name": "k", "scopes": ["mint"]})).json
    await api.put("/v1/users/ada", {"name": "Ada"})
    await api.put("/v1/users/ada", {"name": "Ada King"})
    for path in ("/v1/users", "/v1/users/ada", "/v1/keys", f"/v1/keys/{made['id']}"):
        await api.get(path)
    await api.delete("/v1/users/ada")
    await api.delete(f"/v1/keys/{made['id']}")
    assert await actions(api) == [
        "key.create",
        "user.write",
        "user.write",
        "user.delete",
        "key.delete",
    ]


async def test_every_change_of_the_configuration_leaves_one_line_and_no_reading_does(
    tenant: Tenant,
) -> None:
    api = tenant.api
    await api.put("/v1/settings", {"secret_fallback": True})
    new = {"type": "new", "name": "s", "value": "canary-value"}
    secret = (await api.post("/v1/convai/secrets", new)).json["secret_id"]
    await api.call("PATCH", f"/v1/convai/secrets/{secret}", body={**new, "type": "update"})
    body = {"auth_type": "bearer_auth", "name": "a", "provider": "p", "token": "canary-token"}
    connection = (await api.post("/v1/workspace/auth-connections", body)).json["id"]
    connections = f"/v1/workspace/auth-connections/{connection}"
    await api.call("PATCH", connections, body={"token": "canary-2"})
    await api.post("/v1/convai/environments", {"name": "staging"})
    values = {"production": "canary-text"}
    variables = "/v1/convai/environment-variables"
    made = await api.post(variables, {"type": "string", "label": "host", "values": values})
    variable = f"{variables}/{made.json['id']}"
    await api.call("PATCH", variable, body={"values": {"staging": "canary-staging"}})
    everything = (
        *("/v1/settings", "/v1/settings/warnings", "/v1/convai/environments", variable),
        *(variables, "/v1/convai/secrets", f"/v1/convai/secrets/{secret}", "/v1/providers"),
        *("/v1/workspace/auth-connections", "/v1/providers/google"),
    )
    for path in everything:
        assert (await api.get(path)).status == 200, path
    for path in (
        *(variable, "/v1/convai/environments/staging", f"/v1/convai/secrets/{secret}"),
        connections,
    ):
        assert (await api.delete(path)).status in {200, 204}, path
    assert await actions(api) == [
        *("settings.write", "secret.write", "secret.write"),
        *("auth_connection.write", "auth_connection.write", "environment.write"),
        *("variable.write", "variable.write", "variable.delete", "environment.delete"),
        *("secret.delete", "auth_connection.delete"),
    ]
    assert "canary" not in (await api.get("/v1/audit-events?limit=100")).body.decode()


async def test_every_change_of_connecting_leaves_one_line_and_no_reading_does(
    tenant: Tenant,
) -> None:
    api = tenant.api
    await api.put("/v1/integrations/keys", {"provider": "api-key"})
    await api.put("/v1/users/canary-user/connections/keys", {"api_key": "canary-key"})
    await api.post("/v1/connect-sessions", {"user_id": "canary-user"})
    await api.post("/v1/integrations/keys/check", {"environment": "staging"})
    connection = (await api.get("/v1/users/canary-user/connections/keys")).json["id"]
    for path in (
        *("/v1/integrations", "/v1/integrations/keys", "/v1/connections"),
        *(f"/v1/connections/{connection}", "/v1/users/canary-user/connections"),
    ):
        assert (await api.get(path)).status == 200, path
    assert (await api.post(f"/v1/connections/{connection}/token", {})).json["active"]
    for path in (f"/v1/connections/{connection}", "/v1/integrations/keys", "/v1/users/canary-user"):
        assert (await api.delete(path)).status in {200, 204}, path
    assert await actions(api) == [
        *("integration.write", "user.write", "connection.import", "connect_session.write"),
        *("integration.check", "connection.token", "connection.delete"),
        *("integration.delete", "user.delete"),
    ]
    [event] = await events(api, "&action=connection.import")
    assert event["target"] == {"kind": "connection", "id": connection}
    assert event["environment"] == "production"
    [event] = await events(api, "&action=connection.delete")
    assert event["outcome"] == "nothing_to_revoke"
    assert "canary" not in (await api.get("/v1/audit-events?limit=100")).body.decode()


async def test_showing_and_using_a_configuration_leaves_a_line_before_a_secret_leaves(
    tenant: Tenant,
) -> None:
    body = {"auth_type": "bearer_auth", "name": "a", "provider": "p", "token": "canary"}
    made = await tenant.api.post("/v1/workspace/auth-connections", body)
    schema = {"url": "https://127.0.0.1:1/", "auth_connection": {}}
    schema["auth_connection"] = {"auth_connection_id": made.json["id"]}
    tool = {"type": "webhook", "name": "t", "description": "d", "api_schema": schema}
    asked = {"kind": "server_tool", "config": tool, "environment": "staging"}
    assert (await tenant.api.post("/v1/resolve", asked)).status == 200
    assert (await tenant.api.post("/v1/tools/invoke", asked)).status == 502
    assert (await actions(tenant.api))[1:] == [
        *("configuration.show", "configuration.use", "auth_connection.use"),
    ]
    for action in ("configuration.use", "auth_connection.use"):
        [event] = await events(tenant.api, f"&action={action}")
        assert event["actor"] == {"kind": "key", "id": tenant.caller.actor_id}
    [event] = await events(tenant.api, "&action=configuration.use")
    assert event["environment"] == "staging"


async def test_what_was_refused_leaves_no_line(tenant: Tenant) -> None:
    await tenant.api.put("/v1/users/ada", {"name": ""})
    await tenant.api.delete("/v1/users/nobody")
    await tenant.api.delete("/v1/keys/key_nothing")
    await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["nothing"]})
    assert await actions(tenant.api) == []


async def test_a_repeated_request_leaves_one_line(tenant: Tenant) -> None:
    for _ in range(3):
        await tenant.api.post(
            "/v1/keys", {"name": "k", "scopes": ["mint"]}, headers={"Idempotency-Key": "1"}
        )
    assert await actions(tenant.api) == ["key.create"]


async def test_a_line_says_who_did_what_and_which_request_it_was(tenant: Tenant) -> None:
    made = await tenant.api.post(
        "/v1/keys", {"name": "k", "scopes": ["mint"]}, headers={"X-Request-Id": "my-request-1"}
    )
    event = (await events(tenant.api, "&action=key.create"))[0]
    assert event["actor"] == {"kind": "key", "id": tenant.caller.actor_id}
    assert event["target"] == {"kind": "key", "id": made.json["id"]}
    assert (event["outcome"], event["request_id"]) == ("ok", "my-request-1")
    assert (event["user"], event["environment"]) == (None, None)


async def test_the_record_is_filtered_by_action_and_by_user(tenant: Tenant) -> None:
    for user_id in ("ada", "bob", "ada"):
        await tenant.api.put(f"/v1/users/{user_id}", {})
    await tenant.api.delete("/v1/users/ada")
    of_ada = await events(tenant.api, "&user_id=ada")
    assert [event["action"] for event in of_ada] == ["user.delete", "user.write", "user.write"]
    assert len({event["user"] for event in of_ada}) == 1
    assert len(await events(tenant.api, "&action=user.write")) == 3
    assert len(await events(tenant.api, "&action=user.write&user_id=bob")) == 1
    assert await events(tenant.api, "&user_id=nobody") == []
    assert await events(tenant.api, "&action=workspace.delete") == []


async def test_an_action_that_does_not_exist_is_refused(tenant: Tenant) -> None:
    refused = await tenant.api.get("/v1/audit-events?action=user.burn")
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/action")


async def test_one_persons_pseudonym_differs_from_workspace_to_workspace(
    tenant: Tenant, stranger: Tenant
) -> None:
    seen = []
    for one in (tenant, stranger):
        await one.api.put("/v1/users/grace", {})
        [event] = await events(one.api, "&user_id=grace")
        seen.append(event["user"])
    assert seen[0] != seen[1]
    assert all("grace" not in pseudonym for pseudonym in seen)


async def test_no_line_holds_a_name_an_id_of_a_user_or_a_key(tenant: Tenant) -> None:
    made = await tenant.api.post("/v1/keys", {"name": "canary-key", "scopes": ["mint"]})
    await tenant.api.put("/v1/users/canary-user", {"name": "canary-name"})
    record = (await tenant.api.get("/v1/audit-events")).body.decode()
    assert "canary" not in record
    assert made.json["key"] not in record
    assert tenant.key not in record


async def test_what_the_operator_does_inside_a_workspace_shows_there(
    tenant: Tenant, vault: Vault
) -> None:
    inside = Caller.operator("terminal:eve", request_id="req_1").within(tenant.id)
    await vault.create_key(inside, NewKey(name="k", scopes=("manage",)))
    await vault.put_user(inside, UserId("ada"), Profile())
    shown = [(event["action"], event["actor"]) for event in reversed(await events(tenant.api))][2:]
    eve = {"kind": "operator", "id": "terminal:eve"}
    assert shown == [("key.create", eve), ("user.write", eve)]


async def test_the_record_needs_its_own_scope(tenant: Tenant, anyone: Api) -> None:
    manage = await tenant.api.post("/v1/keys", {"name": "m", "scopes": ["manage"]})
    reader = await tenant.api.post("/v1/keys", {"name": "r", "scopes": ["audit:read"]})
    assert (await anyone.with_key(manage.json["key"]).get("/v1/audit-events")).status == 403
    holder = anyone.with_key(reader.json["key"])
    assert (await holder.get("/v1/audit-events")).status == 200
    assert (await holder.get("/v1/users")).status == 403


async def test_the_record_is_walked_backwards_without_a_gap(tenant: Tenant) -> None:
    await asyncio.gather(*[tenant.api.put(f"/v1/users/u{number}", {}) for number in range(12)])
    whole = [event["id"] for event in await events(tenant.api)]
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        page = (await tenant.api.get(f"/v1/audit-events?limit=3{cursor}")).json
        seen += [event["id"] for event in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == whole
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 14


async def without_a_record(
    postgres: Embedded, deed: Callable[[], Awaitable[object]], workspace: str
) -> None:
    """Do something in one workspace while its lines cannot be written."""
    connection = await asyncpg.connect(postgres.dsn().reveal())
    name = f"broken_{workspace}"
    await connection.execute(
        f"alter table vault.audit_events add constraint {name}"
        f" check (workspace_id <> '{workspace}') not valid"
    )
    try:
        with pytest.raises(VaultError):
            await deed()
    finally:
        await connection.execute(f"alter table vault.audit_events drop constraint {name}")
        await connection.close()


async def test_a_deed_whose_line_cannot_be_written_is_not_done(
    tenant: Tenant, vault: Vault, migrated: Embedded
) -> None:
    key = (await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["mint"]})).json["id"]
    await tenant.api.put("/v1/users/ada", {"name": "before"})
    new = {"type": "new", "name": "s", "value": "before"}
    secret = (await tenant.api.post("/v1/convai/secrets", new)).json["secret_id"]
    paths = (
        *("/v1/keys", "/v1/users", "/v1/convai/secrets", "/v1/convai/environments"),
        *("/v1/convai/environment-variables", "/v1/settings"),
        *("/v1/integrations", "/v1/connections", "/v1/connect-sessions"),
    )
    keys = Registration(provider="api-key")
    await vault.put_integration(tenant.caller, "used", keys)
    await vault.put_integration(tenant.caller, "unused", keys)
    typed = Import(environment="production", values={"api_key": Secret("k")})
    used = await vault.import_connection(tenant.caller, UserId("ada"), "used", typed)
    invited = NewSession(user_id="ada", environment="production")
    session, _ = await vault.create_connect_session(tenant.caller, invited)
    before = [(await tenant.api.get(path)).json for path in paths]
    deeds: list[Callable[[], Awaitable[object]]] = [
        lambda: vault.create_key(tenant.caller, NewKey(name="n", scopes=("mint",))),
        lambda: vault.delete_key(tenant.caller, key),
        lambda: vault.put_user(tenant.caller, UserId("ada"), Profile(name="after")),
        lambda: vault.put_user(tenant.caller, UserId("new"), Profile()),
        lambda: vault.delete_user(tenant.caller, UserId("ada")),
        lambda: vault.create_environment(tenant.caller, "staging"),
        lambda: vault.create_variable(tenant.caller, "label", "string", {"production": "x"}),
        lambda: vault.update_secret(tenant.caller, secret, "s", Secret("after")),
        lambda: vault.delete_secret(tenant.caller, secret),
        lambda: vault.put_settings(tenant.caller, SettingsOf(secret_fallback=False)),
        lambda: vault.put_integration(tenant.caller, "new", keys),
        lambda: vault.delete_integration(tenant.caller, "unused"),
        lambda: vault.check_integration(tenant.caller, "used", "production"),
        lambda: vault.import_connection(tenant.caller, UserId("new"), "used", typed),
        lambda: vault.import_connection(tenant.caller, UserId("ada"), "unused", typed),
        lambda: vault.delete_connection(tenant.caller, used.connection_id),
        lambda: vault.fresh_tokens(tenant.caller, [used.connection_id]),
        lambda: vault.expect(tenant.caller, [used.connection_id], datetime.now(UTC)),
        lambda: vault.create_connect_session(tenant.caller, invited),
        lambda: vault.cancel_connect_session(tenant.caller, session.session_id),
        lambda: vault.use_configuration(tenant.caller, set(), {secret}, "production"),
        lambda: vault.show_configuration(tenant.caller, set(), {secret}, "production"),
        lambda: vault.delete_workspace(Caller.operator("tests"), tenant.id),
    ]
    for deed in deeds:
        await without_a_record(migrated, deed, tenant.id)
    after = [(await tenant.api.get(path)).json for path in paths]
    for page in (*before, *after):
        for one in page.get("data", ()):
            one.pop("last_used_at", None)
    assert after == before


async def test_the_operators_own_deeds_are_on_the_operators_own_record(
    operator: Api, migrated: Embedded
) -> None:
    made = (await operator.post("/v1/workspaces", {"name": "seen"})).json["id"]
    await operator.delete(f"/v1/workspaces/{made}")
    connection = await asyncpg.connect(migrated.dsn().reveal())
    rows = await connection.fetch(
        "select workspace_id, action, actor_kind from vault.audit_events where target_id = $1"
        " order by event_id",
        made,
    )
    await connection.close()
    for place in (OPERATOR, made):
        of_place = [tuple(row)[1:] for row in rows if row[0] == place]
        assert of_place == [("workspace.create", "operator"), ("workspace.delete", "operator")]


def test_every_action_that_changes_something_is_tested_here() -> None:
    changes = {one for one in ACTIONS if one.rpartition(".")[2] not in {"list", "read"}}
    assert changes == {
        "workspace.create",
        "workspace.delete",
        "key.create",
        "key.delete",
        "user.write",
        "user.delete",
        "environment.write",
        "environment.delete",
        "settings.write",
        "variable.write",
        "variable.delete",
        "secret.write",
        "secret.delete",
        "auth_connection.write",
        "auth_connection.delete",
        "configuration.show",
        "configuration.use",
        "integration.write",
        "integration.delete",
        "integration.check",
        "connection.write",
        "connection.delete",
        "connection.token",
        "connection.refresh",
        "connection.expect",  # in tests/flows/test_refreshing.py, where there is a provider
        "connect_session.write",
        "connect_session.complete",
        "connect_session.delete",
        "event_endpoint.write",  # these, in tests/flows/test_events.py, where something receives
        "event_endpoint.delete",
        "event_endpoint.rotate",
        "event_endpoint.replay",
        "agent.write",  # these, in tests/broker/test_agents.py and test_upstreams.py
        "agent.delete",
        "agent.tools",
        "agent.push",
        "upstream.write",
        "upstream.delete",
        "signing_key.rotate",  # in tests/flows/test_sealed_runtime.py
        "conversation.mint",  # these, in tests/flows/test_mint*.py
        "conversation.prepare",
        "conversation.end",
        "conversation.verify",
        "conversation.redeem",
        "grant.refresh",
        "gateway.use",
        "call.receive",  # these, in tests/flows/test_telephone_*.py
        "phone_number.write",
        "rotation.run",  # in tests/flows/test_rekeying.py
        "rotation.verify",
        "chain.verify",  # these, in tests/flows/test_audit_*.py
        "chain.export",
        "chain.anchor",
        "backup.take",  # these, in tests/flows/test_backup.py
        "backup.restore",
    }
