"""Attacks on the refresh tool: by a model that fills in what it likes, and by who holds what."""

from typing import Any

import pytest
from conftest import MakeTenant, Tenant
from support.talking import Stage

from vault.bearer import generate

CHOSEN: list[dict[str, Any]] = [
    {"environment": "staging"},
    {"environment": "production"},
    {"url": "https://evil.example", "token_url": "https://evil.example"},
    {"workspace_id": "ws_01k9v7q3x8w2r5t6y7z8a9b0c1", "agent_id": "other"},
    {"connection_id": "conn_01k9v7q3x8w2r5t6y7z8a9b0c1"},
    {"scopes": ["everything"], "min_ttl": 999_999, "force": True},
    {"variables": {"secret__x": "{{secret__user_acme_token}}"}, "user": {"id": "bob"}},
    {"integration_id": "other", "Integration": "other", "user-id": "bob"},
]


@pytest.mark.parametrize("more", CHOSEN)
async def test_what_a_model_adds_changes_nothing(stage: Stage, more: dict[str, Any]) -> None:
    await stage.begin(user="bob")
    talk = await stage.begin(user="ada")
    plain = await talk.refresh({"integration": "acme"})
    tricked = await talk.refresh({"integration": "acme", **more})

    assert tricked.status == 200
    differing = ("expires_in",)
    assert {k: v for k, v in tricked.json.items() if k not in differing} == {
        k: v for k, v in plain.json.items() if k not in differing
    }
    assert talk.refreshes == 0


@pytest.mark.parametrize("user", ["bob", "ADA", "ada ", "", "*", "{{user_id}}"])
async def test_another_user_is_refused(stage: Stage, user: str) -> None:
    bob = await stage.begin(user="bob")
    ada = await stage.begin(user="ada")
    reply = await ada.refresh({"integration": "acme", "user_id": user})

    assert (reply.status, reply.code) == (403, "forbidden")
    assert bob.tokens[0].encode() not in reply.body
    assert (await ada.refresh({"integration": "acme", "user_id": "ada"})).status == 200


@pytest.mark.parametrize("name", ["other", "oidc2", "ACME", "acme ", "../acme", "google", "%"])
async def test_a_provider_outside_of_the_conversation_is_not_there(stage: Stage, name: str) -> None:
    both = await stage.begin(user="ada", integrations=("acme", "other"))
    assert (await both.refresh({"integration": "other"})).status == 200
    talk = await stage.begin(user="ada", integrations=("acme",))
    for field in ("integration", "provider"):
        reply = await talk.refresh({field: name})
        assert (reply.status, reply.code) == (404, "not_found")


async def test_another_conversations_grant_gives_that_ones_user(stage: Stage) -> None:
    bob = await stage.begin(user="bob")
    ada = await stage.begin(user="ada")
    for talk in (ada, bob):
        reply = await talk.refresh({"integration": "acme"})
        assert reply.json["variables"]["secret__user_acme_token"] == talk.tokens[0]


async def test_no_bearer_but_a_living_one_opens_anything(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    for bearer in (generate("grant").reveal(), generate("handle").reveal(), tenant.key, "x"):
        reply = await talk.refresh({"integration": "acme"}, bearer=bearer)
        assert (reply.status, reply.code) == (401, "unauthenticated")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_a_handle_is_given_no_token_whatever_it_asks(stage: Stage) -> None:
    talk = await stage.begin(delivery="handle", runtime_key=True)
    for body in ({}, {"rejected": True}, {"generation": 0}, {"rejected": True, "generation": 9}):
        reply = await talk.refresh({"integration": "acme", **body})
        assert reply.status == 200, reply.body
        assert list(reply.json["variables"]) == ["user_acme_generation"]
        stored = await talk.stored()
        for token in (*talk.tokens, stored["access_token"]):
            assert token.encode() not in reply.body


async def test_a_dry_run_with_a_grant_gives_none_either(stage: Stage) -> None:
    talk = await stage.begin()
    for query in ("?dry_run=true", "?dry_run=1"):
        reply = await talk.refresh({"integration": "acme"}, query=query)
        assert list(reply.json["variables"]) == ["user_acme_generation"]


async def test_a_grant_opens_no_other_route(stage: Stage) -> None:
    talk = await stage.begin()
    grant = talk.anyone.with_key(talk.bearer)
    for method, path in (
        ("GET", "/v1/users"),
        ("GET", "/v1/connections"),
        ("POST", f"/v1/connections/{talk.connection}/token"),
        ("POST", f"/v1/connections/{talk.connection}/refresh"),
        ("POST", "/v1/conversations"),
        ("GET", f"/v1/conversations/{talk.conversation}"),
        ("POST", "/v1/resolve"),
        ("GET", "/v1/agents/agent_1"),
    ):
        assert (await grant.call(method, path)).status in (401, 403), path


async def test_a_grant_of_another_workspace_reaches_its_own_only(
    stage: Stage, make_tenant: MakeTenant
) -> None:
    talk = await stage.begin(user="ada")
    other = await make_tenant()
    elsewhere = await Stage(
        api=other.api,
        anyone=stage.anyone,
        base=stage.base,
        provider=stage.provider,
        listens=stage.listens,
    ).begin(user="ada")
    mine = await talk.refresh({"integration": "acme"})
    theirs = await elsewhere.refresh({"integration": "acme"})
    assert mine.json["variables"]["secret__user_acme_token"] == talk.tokens[0]
    assert theirs.json["variables"]["secret__user_acme_token"] == elsewhere.tokens[0]
