"""Who may do what: the whole table, by every kind of caller, and over every route."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
import pytest
from conftest import Tenant
from hypothesis import given
from hypothesis import strategies as st
from support.api import Api, Reply, Running
from support.attacks import PUBLIC
from support.matrix import actions_of

from vault.access import ACTIONS, RULES, Action, Rule, may_revoke, narrowed, permit
from vault.errors import Forbidden, Invalid
from vault.model import OPERATOR, SCOPES, ApiKey, Caller, KeyId, NewKey, Scope, WorkspaceId

# Facts of the deployment that several scopes, and the operator from outside, may read.
CATALOGUE: Final[set[Action]] = {"provider.list", "provider.read"}
# What a platform's own service does day by day; who sets a workspace up may do it, too.
CONNECTING: Final[set[Action]] = {
    *("integration.list", "integration.read"),
    *("connection.list", "connection.read", "connection.delete", "connection.refresh"),
    *("connect_session.list", "connect_session.read", "connect_session.delete"),
}
# The same, but it takes credentials in, or says for whom: nothing that an operator does.
OWN_CONNECTING: Final[set[Action]] = {
    *("connection.write", "connect_session.write", "connect_session.complete"),
}
# What a service that mints does; who sets a workspace up may look on, and end what went wrong.
CONVERSING: Final[set[Action]] = {
    *("conversation.read", "conversation.list", "conversation.end", "agent.tools"),
}
# What is asked of the workspace's own account, with the key that was given for it.
NUMBERS: Final[set[Action]] = {"phone_number.read", "phone_number.write"}
SHARED: Final = CATALOGUE | CONNECTING | OWN_CONNECTING | CONVERSING
# What a conversation does with what it holds, and no key.
GRANTED: Final[set[Action]] = {"grant.refresh", "gateway.use"}
# What it does of that which keys do, too: read its own tokens, call a tool of its agent's profile,
# and end itself.
GRANTED_TOO: Final[set[Action]] = {
    *("connection.token", "configuration.use", "conversation.prepare", "conversation.end"),
}
# The policy, written down a second time: a change of the product's table is made here too.
POLICY: Final[dict[Scope | None, set[Action]]] = {
    None: {
        *("workspace.create", "workspace.list", "workspace.read", "workspace.delete"),
        *GRANTED,
        *("rotation.run", "rotation.verify", "chain.verify", "chain.export", "chain.anchor"),
        *("backup.take", "backup.restore"),
    },
    "manage": {
        *("key.create", "key.list", "key.read", "key.delete"),
        *("user.list", "user.read", "user.write", "user.delete"),
        *("environment.list", "environment.write", "environment.delete"),
        *("settings.read", "settings.write"),
        *("variable.list", "variable.read", "variable.write", "variable.delete"),
        *("secret.list", "secret.read", "secret.write", "secret.delete"),
        *("auth_connection.list", "auth_connection.write", "auth_connection.delete"),
        *("integration.write", "integration.delete", "integration.check"),
        *("event_endpoint.list", "event_endpoint.read", "event_endpoint.write"),
        *("event_endpoint.delete", "event_endpoint.rotate", "event_endpoint.replay"),
        *("agent.list", "agent.read", "agent.write", "agent.delete", "agent.push"),
        *("upstream.read", "upstream.write", "upstream.delete", "signing_key.rotate"),
        *NUMBERS,
        *SHARED,
    },
    "audit:read": {"audit.read"},
    "mint": {
        *("conversation.mint", "conversation.prepare", "conversation.verify", "readiness.read"),
        "connection.expect",
        *CONVERSING,
    },
    "connect": CATALOGUE | CONNECTING | OWN_CONNECTING,
    "tokens:read": {"connection.token"},
    "tools:invoke": {"configuration.show", "configuration.use"},
    "redeem": {"conversation.redeem"},
    "runtime": set(),
    "hooks": {"call.receive"},
}
# Whoever holds one of these gets at credentials, or has them used.
GIVES_AWAY: Final[set[Scope]] = {
    *("mint", "tokens:read", "tools:invoke", "redeem", "runtime", "hooks"),
}
# What a key that can only mint may reach beside the routes that ask for no key.
MINT_ONLY: Final[set[str]] = {
    "GET /v1/agents/{agent_id:str}/tools",
    *("POST /v1/conversations", "POST /v1/conversations/prepare", "GET /v1/conversations"),
    "GET /v1/conversations/{conversation_id:str}",
    "POST /v1/conversations/{conversation_id:str}/end",
    "POST /v1/conversations/{conversation_id:str}/verify",
    "POST /v1/readiness",
    "GET /v1/convai/conversation/token",
    *(f"GET /v1/convai/conversation/get{by}signed{by}url" for by in "-_"),
    *(
        f"POST /v1/convai/{line}/outbound-call"
        for line in ("twilio", "sip-trunk", "exotel", "whatsapp")
    ),
    "POST /v1/convai/twilio/register-call",
}

WORKSPACE = WorkspaceId("ws_" + "0" * 26)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def holder(*scopes: Scope, environments: tuple[str, ...] = ()) -> Caller:
    return Caller(
        kind="key",
        actor_id="key_1",
        workspace=WORKSPACE,
        scopes=frozenset(scopes),
        environments=environments,
    )


def allowed(caller: Caller) -> set[Action]:
    """Every action that the table lets this caller do."""
    found: set[Action] = set()
    for action in ACTIONS:
        try:
            permit(caller, action)
        except Forbidden:
            continue
        found.add(action)
    return found


def operator_may_read(rules: dict[Action, Rule]) -> list[Action]:
    """The rows that let the operator at a credential."""
    return [action for action, rule in rules.items() if rule.operator and rule.scope in GIVES_AWAY]


def test_every_action_has_a_rule_and_every_scope_a_policy() -> None:
    assert set(RULES) == set(ACTIONS)
    assert set(POLICY) == {None, *SCOPES}
    named = [action for actions in POLICY.values() for action in actions - SHARED]
    assert sorted([*named, *SHARED]) == sorted(ACTIONS)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_do_what_its_scope_says_and_nothing_else(scope: Scope) -> None:
    assert allowed(holder(scope)) == POLICY[scope]
    others = [one for one in SCOPES if one != scope]
    assert allowed(holder(*others)).isdisjoint(POLICY[scope] - SHARED)


def test_a_key_without_scopes_may_do_nothing() -> None:
    assert allowed(holder()) == set()


def test_the_widest_key_is_no_operator() -> None:
    assert allowed(holder(*SCOPES)) == set(ACTIONS) - POLICY[None]


def test_the_operator_works_on_workspaces_outside_and_inside_only_where_it_named_one() -> None:
    operator = Caller.operator("op")
    assert allowed(operator) == POLICY[None] - GRANTED | CATALOGUE
    never = POLICY[None] | CATALOGUE | OWN_CONNECTING | NUMBERS | {"agent.push"}
    never |= POLICY["tools:invoke"] | POLICY["tokens:read"] | POLICY["redeem"]
    never |= POLICY["mint"] - CONVERSING | POLICY["hooks"]
    assert allowed(operator.within(WORKSPACE)) == set(ACTIONS) - never


def test_the_operator_holds_no_scope_and_a_key_goes_nowhere() -> None:
    assert Caller.operator("op").scopes == frozenset()
    with pytest.raises(Forbidden):
        holder(*SCOPES).within(OPERATOR)


@pytest.mark.parametrize("kind", ["person", "worker"])
def test_a_person_with_a_link_and_the_worker_may_do_nothing_that_has_a_name_here(
    kind: Literal["person", "worker"],
) -> None:
    nobody = Caller(kind=kind, actor_id="x", workspace=WORKSPACE, scopes=frozenset(SCOPES))
    assert allowed(nobody) == set()
    assert allowed(msgspec.structs.replace(nobody, workspace=OPERATOR)) == set()


def test_what_a_conversation_holds_may_use_its_own_connections_and_nothing_else() -> None:
    grant = Caller(kind="grant", actor_id="kcv_1", workspace=WORKSPACE)
    assert allowed(grant) == GRANTED | GRANTED_TOO
    wide = msgspec.structs.replace(grant, scopes=frozenset(SCOPES))
    assert allowed(wide) == GRANTED | GRANTED_TOO


def test_no_row_lets_the_operator_at_a_credential() -> None:
    assert operator_may_read(RULES) == []
    seeded: dict[Action, Rule] = {
        "key.read": Rule("tokens:read", operator=True),
        "user.read": RULES["user.read"],
    }
    assert operator_may_read(seeded) == ["key.read"]


# Over HTTP: the table is what the routes do


async def test_a_key_reaches_only_the_routes_of_its_scope(
    tenant: Tenant, service: Running, anyone: Api
) -> None:
    actions = actions_of(service.service.app)
    for scope in SCOPES:
        made = await tenant.api.post("/v1/keys", {"name": scope, "scopes": [scope]})
        api = anyone.with_key(made.json["key"])
        for route, action in actions.items():
            method, _, template = route.partition(" ")
            reply = await api.call(method, re.sub(r"\{[^}]+\}", "x", template))
            if action is None:
                assert route in PUBLIC
            elif action in POLICY[scope]:
                assert reply.status not in {401, 403}, f"{scope} on {route}"
            else:
                assert reply.status == 403, f"{scope} on {route}"
                assert refused(reply), f"{scope} on {route}"


async def test_a_key_that_can_only_mint_is_refused_everywhere_else(
    tenant: Tenant, service: Running, anyone: Api
) -> None:
    made = await tenant.api.post("/v1/keys", {"name": "mint", "scopes": ["mint"]})
    api = anyone.with_key(made.json["key"])
    reached = set()
    for route in actions_of(service.service.app):
        method, _, template = route.partition(" ")
        reply = await api.call(method, re.sub(r"\{[^}]+\}", "x", template))
        if reply.status != 403:
            reached.add(route)
    assert reached == MINT_ONLY | PUBLIC


def refused(reply: Reply) -> bool:
    """Is this our 403, or the same in ElevenLabs' shape?"""
    if "detail" in reply.json and isinstance(reply.json["detail"], dict):
        return bool(reply.json["detail"]["code"] == "missing_permissions")
    return reply.code == "forbidden"


# No key makes a key wider than itself

times = st.none() | st.integers(1, 1000).map(lambda days: NOW + timedelta(days=days))
scopes = st.lists(st.sampled_from(SCOPES), unique=True).map(tuple)
environments = st.lists(st.sampled_from(["production", "staging", "dev"]), unique=True).map(tuple)


@given(scopes, environments, times, scopes, environments, times)
def test_no_key_makes_a_wider_key(
    held: tuple[Scope, ...],
    held_environments: tuple[str, ...],
    held_until: datetime | None,
    wanted: tuple[Scope, ...],
    wanted_environments: tuple[str, ...],
    wanted_until: datetime | None,
) -> None:
    caller = Caller(
        kind="key",
        actor_id="key_1",
        workspace=WORKSPACE,
        scopes=frozenset(held),
        environments=held_environments,
        expires_at=held_until,
    )
    key = NewKey(name="k", scopes=wanted, environments=wanted_environments, expires_at=wanted_until)
    try:
        made = narrowed(caller, key, NOW)
    except Forbidden:
        # It is refused for a reason: as it was asked for it would be wider.
        assert (
            not set(wanted) <= set(held)
            or (held_environments and not set(wanted_environments) <= set(held_environments))
            or (held_until and wanted_until and wanted_until > held_until)
        )
        return
    assert set(made.scopes) == set(wanted) <= set(held)
    if held_environments:
        assert made.environments
        assert set(made.environments) <= set(held_environments)
    if held_until:
        assert made.expires_at is not None
        assert made.expires_at <= held_until
    if wanted_environments:
        assert made.environments == wanted_environments
    if wanted_until:
        assert made.expires_at == wanted_until


def test_a_key_cannot_expire_before_it_is_made() -> None:
    for when in (NOW, NOW - timedelta(seconds=1)):
        past = NewKey(name="k", scopes=("mint",), expires_at=when)
        for caller in (holder(*SCOPES), Caller.operator("op").within(WORKSPACE)):
            with pytest.raises(Invalid):
                narrowed(caller, past, NOW)


def test_only_what_lies_within_ones_environments_can_be_revoked() -> None:
    def key(*names: str) -> ApiKey:
        return ApiKey(KeyId("key_2"), "k", ["mint"], list(names), NOW, "key:key_1")

    staging = holder("manage", environments=("staging",))
    may_revoke(staging, key("staging"))
    for other in (key(), key("production"), key("staging", "production")):
        with pytest.raises(Forbidden):
            may_revoke(staging, other)
        may_revoke(holder("manage"), other)
