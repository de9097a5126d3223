"""A runtime of one's own: minted here, opened there, with keys that are replaced without a gap."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Tenant
from joserfc.jwk import OKPKey
from support.api import Api
from support.journeys import Clock
from support.talking import AGENT, Stage

from vault.bearer import generate


def example() -> Any:
    """The example that the documentation shows, as it stands."""
    path = Path(__file__).resolve().parents[2] / "examples" / "runtime.py"
    spec = importlib.util.spec_from_file_location("runtime_of_ones_own", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXAMPLE = example()


async def jwks(anyone: Api, workspace: str) -> list[dict[str, str]]:
    reply = await anyone.get(f"/v1/jwks/{workspace}")
    assert reply.status == 200
    found: list[dict[str, str]] = reply.json["keys"]
    return found


async def mint(api: Api, **profile: Any) -> dict[str, Any]:
    written = {"runtime": "sealed", **profile}
    assert (await api.put(f"/v1/agents/{AGENT}", written)).status in (200, 201)
    reply = await api.post("/v1/conversations", {"agent_id": AGENT, "user_id": "ada"})
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


async def test_a_minted_token_opens_in_its_runtime_with_the_published_keys(
    stage: Stage, tenant: Tenant, anyone: Api
) -> None:
    talk = await stage.begin()
    private = OKPKey.generate_key("X25519")
    minted = await mint(tenant.api, public_key=private.as_dict(private=False))
    issuer = f"{anyone.base}/v1/jwks/{tenant.id}"
    keys = {"keys": await jwks(anyone, tenant.id)}
    claims = EXAMPLE.Runtime(issuer, keys, AGENT, private).open(minted["token"])

    assert minted["delivery"] == "sealed"
    assert claims["sub"] == "ada"
    assert claims["environment"] == "production"
    assert claims["variables"]["secret__user_acme_token"] == talk.tokens[0]
    assert talk.tokens[0] not in str(minted)


async def test_a_repeated_request_gets_a_token_that_opens_and_the_former_grant_is_dead(
    stage: Stage, tenant: Tenant, anyone: Api
) -> None:
    talk = await stage.begin()
    private = OKPKey.generate_key("X25519")
    written = {"runtime": "sealed", "public_key": private.as_dict(private=False)}
    assert (await tenant.api.put(f"/v1/agents/{AGENT}", written)).status == 200
    asked = {"agent_id": AGENT, "user_id": "ada"}
    once = {"Idempotency-Key": "k1"}
    replies = [await tenant.api.post("/v1/conversations", asked, headers=once) for _ in range(2)]
    assert replies[0].json["id"] == replies[1].json["id"]
    issuer = f"{anyone.base}/v1/jwks/{tenant.id}"
    runtime = EXAMPLE.Runtime(issuer, {"keys": await jwks(anyone, tenant.id)}, AGENT, private)
    grants = [
        runtime.open(one.json["token"])["variables"]["secret__keyturn_authorization"]
        for one in replies
    ]
    answers = [
        await talk.refresh({"integration": "acme"}, bearer=one.removeprefix("Bearer "))
        for one in grants
    ]
    assert [one.status for one in answers] == [401, 200]


async def test_what_was_redeemed_is_not_given_again(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    assert (await tenant.api.put(f"/v1/agents/{AGENT}", {"runtime": "sealed"})).status == 200
    asked, once = {"agent_id": AGENT, "user_id": "ada"}, {"Idempotency-Key": "k1"}
    minted = (await tenant.api.post("/v1/conversations", asked, headers=once)).json
    redeemer = talk.anyone.with_key(await stage.new_key("redeem"))
    opened = await redeemer.post("/v1/conversations/redeem", {"token": minted["token"]})
    grant = opened.json["dynamic_variables"]["secret__keyturn_authorization"]
    again = (await tenant.api.post("/v1/conversations", asked, headers=once)).json
    assert (again["id"], again["token"]) == (minted["id"], None)
    bearer = grant.removeprefix("Bearer ")
    assert (await talk.refresh({"integration": "acme"}, bearer=bearer)).status == 200


async def test_without_a_public_key_it_is_redeemed_once(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    minted = await mint(tenant.api)
    assert minted["token"].startswith("kts_")
    body = {"token": minted["token"]}
    redeemer = talk.anyone.with_key(await stage.new_key("redeem"))
    refused = await talk.anyone.with_key(await stage.new_key("mint")).post(
        "/v1/conversations/redeem", body
    )
    assert refused.status == 403
    replies = await asyncio.gather(
        *(redeemer.post("/v1/conversations/redeem", body) for _ in range(4))
    )

    assert sorted(reply.status for reply in replies) == [200, 404, 404, 404]
    [opened] = [reply.json for reply in replies if reply.status == 200]
    assert opened["dynamic_variables"]["secret__user_acme_token"] == talk.tokens[0]
    unknown = {"token": generate("sealed").reveal()}
    assert (await redeemer.post("/v1/conversations/redeem", unknown)).status == 404


async def test_what_is_redeemed_is_fetched_at_that_moment(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    minted = await mint(tenant.api)
    assert (await tenant.api.post(f"/v1/connections/{talk.connection}/refresh")).status == 200
    reply = await tenant.api.post("/v1/conversations/redeem", {"token": minted["token"]})

    given = reply.json["dynamic_variables"]["secret__user_acme_token"]
    assert given == (await talk.stored())["access_token"] != talk.tokens[0]


async def test_a_token_of_another_workspace_is_not_there(
    stage: Stage, tenant: Tenant, stranger: Tenant
) -> None:
    await stage.begin()
    minted = await mint(tenant.api)
    body = {"token": minted["token"]}
    assert (await stranger.api.post("/v1/conversations/redeem", body)).status == 404
    assert (await tenant.api.post("/v1/conversations/redeem", body)).status == 200


async def test_who_has_never_signed_is_like_who_is_not_there(anyone: Api, tenant: Tenant) -> None:
    replies = [
        await anyone.get(f"/v1/jwks/{name}")
        for name in (tenant.id, "ws_" + "0" * 26, "operator", "x")
    ]
    assert {reply.status for reply in replies} == {200}
    assert {reply.body for reply in replies} == {b'{"keys":[]}'}
    assert {reply.headers["Cache-Control"] for reply in replies} == {"no-store"}


async def test_the_next_key_is_known_before_it_signs_and_the_last_one_after(
    tenant: Tenant, anyone: Api, clock: Clock
) -> None:
    made = await tenant.api.post("/v1/signing-keys", {"compromised": True})
    assert made.status == 201, made.body
    first = made.json["key_id"]
    assert [key["kid"] for key in await jwks(anyone, tenant.id)] == [first]
    second = (await tenant.api.post("/v1/signing-keys")).json["key_id"]
    assert {key["kid"] for key in await jwks(anyone, tenant.id)} == {first, second}
    assert await signer(tenant) == first

    await _pass(clock, tenant, hours=1)
    assert await signer(tenant) == second
    assert {key["kid"] for key in await jwks(anyone, tenant.id)} == {first, second}
    await _pass(clock, tenant, hours=1)
    assert {key["kid"] for key in await jwks(anyone, tenant.id)} == {second}


async def test_each_key_that_is_made_is_in_the_record_with_who_made_it(tenant: Tenant) -> None:
    await signer(tenant)  # the first one is made by who mints
    asked = [
        (await tenant.api.post("/v1/signing-keys", body)).json["key_id"]
        for body in ({}, {"compromised": True})
    ]
    found = await tenant.api.get("/v1/audit-events?action=signing_key.rotate")
    told = found.json["data"]
    assert [one["target"]["kind"] for one in told] == ["signing_key"] * 3
    assert [one["target"]["id"] for one in told[:2]] == asked[::-1]
    kinds = [one["actor"]["kind"] for one in told]
    assert kinds[:2] == ["key", "key"]
    assert {one["outcome"] for one in told} == {"ok"}


async def test_a_compromised_key_is_forgotten_at_once(tenant: Tenant, anyone: Api) -> None:
    first = (await tenant.api.post("/v1/signing-keys", {"compromised": True})).json["key_id"]
    await tenant.api.post("/v1/signing-keys")
    now = (await tenant.api.post("/v1/signing-keys", {"compromised": True})).json["key_id"]

    assert first != now
    assert [key["kid"] for key in await jwks(anyone, tenant.id)] == [now]
    assert await signer(tenant) == now


async def test_after_ninety_days_the_next_key_is_made_by_itself(
    tenant: Tenant, anyone: Api, clock: Clock
) -> None:
    first = await signer(tenant)
    await _pass(clock, tenant, hours=91 * 24)
    assert await signer(tenant) == first
    keys = {key["kid"] for key in await jwks(anyone, tenant.id)}
    assert len(keys) == 2
    assert await signer(tenant) == first
    assert {key["kid"] for key in await jwks(anyone, tenant.id)} == keys
    [second] = keys - {first}
    await _pass(clock, tenant, hours=1)
    assert await signer(tenant) == second


async def test_a_private_key_that_was_moved_to_another_workspace_does_not_open(
    tenant: Tenant, stranger: Tenant, clock: Clock
) -> None:
    await signer(stranger)
    await signer(tenant)
    await clock.do(
        "update vault.signing_keys t set sealed = s.sealed from vault.signing_keys s"
        " where t.workspace_id = $1 and s.workspace_id = $2",
        tenant.id,
        stranger.id,
    )
    reply = await _minted(tenant)
    assert (reply.status, reply.code) == (500, "internal")


async def signer(tenant: Tenant) -> str:
    """Which key signs now, as a token says that was minted now."""
    private = OKPKey.generate_key("X25519")
    reply = await _minted(tenant, private)
    assert reply.status == 201, reply.body
    sealed = EXAMPLE.jwe.decrypt_compact(reply.json["token"], private, ["ECDH-ES", "A256GCM"])
    signed = EXAMPLE.jws.extract_compact(sealed.plaintext)
    found: str = signed.headers()["kid"]
    return found


async def _minted(tenant: Tenant, private: OKPKey | None = None) -> Any:
    public = (private or OKPKey.generate_key("X25519")).as_dict(private=False)
    await tenant.api.put("/v1/users/ada", {})
    written = {"runtime": "sealed", "public_key": public}
    assert (await tenant.api.put(f"/v1/agents/{AGENT}", written)).status in (200, 201)
    return await tenant.api.post("/v1/conversations", {"agent_id": AGENT, "user_id": "ada"})


async def _pass(clock: Clock, tenant: Tenant, *, hours: int) -> None:
    await clock.do(
        "update vault.signing_keys set signs_from = signs_from - $2 * interval '1 hour'"
        " where workspace_id = $1",
        tenant.id,
        hours,
    )


@pytest.mark.parametrize("scope", ["mint", "redeem", "connect"])
async def test_only_who_manages_replaces_a_key(stage: Stage, scope: str) -> None:
    key = stage.anyone.with_key(await stage.new_key(scope))
    assert (await key.post("/v1/signing-keys")).status == 403
