"""Every POST that makes something is done once for one Idempotency-Key, ElevenLabs' routes too."""

from typing import Any, Final

import asyncpg
import pytest
from conftest import Tenant
from support.api import Api, Reply
from support.claiming import still_running

from vault.embedded import Embedded
from vault.vault import Vault

SECRETS: Final = "/v1/convai/secrets"
ENVIRONMENTS: Final = "/v1/convai/environments"
VARIABLES: Final = "/v1/convai/environment-variables"
AUTH: Final = "/v1/workspace/auth-connections"
ONCE: Final = {"Idempotency-Key": "the-only-one"}
VALUE: Final = "canary-of-a-value"
MAKING: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "a secret": (
        SECRETS,
        {"type": "new", "name": "one", "value": VALUE},
        {"type": "new", "name": "one", "value": "another"},
    ),
    "an environment": (ENVIRONMENTS, {"name": "staging"}, {"name": "canary"}),
    "an environment variable": (
        VARIABLES,
        {"type": "string", "label": "host", "values": {"production": "a", "staging": "b"}},
        {"type": "string", "label": "host", "values": {"production": "a"}},
    ),
    "an auth connection": (
        AUTH,
        {
            "auth_type": "basic_auth",
            "name": "n",
            "provider": "p",
            "username": "u",
            "password": VALUE,
        },
        {"auth_type": "bearer_auth", "name": "n", "provider": "p", "token": VALUE},
    ),
    "a signing key": ("/v1/signing-keys", {"compromised": False}, {"compromised": True}),
}
EVERY = pytest.mark.parametrize("what", MAKING)


async def making(api: Api, what: str, *, other: bool = False, once: dict[str, str] = ONCE) -> Reply:
    path, body, another = MAKING[what]
    return await api.post(path, another if other else body, headers=once)


async def made_of(tenant: Tenant, what: str) -> int:
    """How many of these there are."""
    path = MAKING[what][0]
    if path == "/v1/signing-keys":
        return len((await tenant.api.get(f"/v1/jwks/{tenant.id}")).json["keys"])
    [found] = [one for one in (await tenant.api.get(path)).json.values() if isinstance(one, list)]
    return len(found)


@EVERY
async def test_the_same_request_makes_one_thing_and_answers_the_same(
    tenant: Tenant, what: str
) -> None:
    before = await made_of(tenant, what)
    first, second = await making(tenant.api, what), await making(tenant.api, what)
    assert first.status in (200, 201)
    assert (second.status, second.json) == (first.status, first.json)
    assert await made_of(tenant, what) == before + 1


@EVERY
async def test_another_body_is_refused(tenant: Tenant, what: str) -> None:
    await making(tenant.api, what)
    made = await made_of(tenant, what)
    refused = await making(tenant.api, what, other=True)
    assert refused.status == 422
    if what == "a signing key":
        assert refused.code == "idempotency_mismatch"
    else:
        [rule] = refused.json["detail"]
        assert (rule["loc"], rule["type"]) == (
            ["header", "Idempotency-Key"],
            "idempotency_mismatch",
        )
    assert await made_of(tenant, what) == made


@EVERY
async def test_a_key_that_is_none_is_refused_where_it_was_sent(tenant: Tenant, what: str) -> None:
    refused = await making(tenant.api, what, once={"Idempotency-Key": "a b"})
    assert refused.status == 422
    if what == "a signing key":
        assert [one["pointer"] for one in refused.json["errors"]] == ["/Idempotency-Key"]
    else:
        [rule] = refused.json["detail"]
        assert rule["loc"] == ["header", "Idempotency-Key"]


@EVERY
async def test_a_key_holds_for_its_own_caller(tenant: Tenant, stranger: Tenant, what: str) -> None:
    mine, theirs = await making(tenant.api, what), await making(stranger.api, what)
    assert mine.status == theirs.status
    assert mine.body != theirs.body


async def test_what_is_still_being_made_is_said_to_be(
    tenant: Tenant, vault: Vault, migrated: Embedded
) -> None:
    claim = vault.fingerprint(f"POST {SECRETS}\n{ONCE['Idempotency-Key']}")
    async with still_running(migrated, tenant, claim):
        second = await making(tenant.api, "a secret")
    assert (second.status, second.json["detail"]["code"]) == (409, "idempotency_in_progress")
    assert (await making(tenant.api, "a secret")).status == 200


@EVERY
async def test_nothing_secret_is_remembered(tenant: Tenant, migrated: Embedded, what: str) -> None:
    await making(tenant.api, what)
    connection = await asyncpg.connect(migrated.dsn().reveal())
    [kept] = await connection.fetch(
        "select result, fingerprint from vault.idempotency where workspace_id = $1", tenant.id
    )
    await connection.close()
    assert kept["result"]
    assert VALUE.encode() not in kept["result"] + kept["fingerprint"]
