"""Deleting: what was given is given back, to whom it belongs, now or later, and never too much."""

from typing import Any

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import SECRET, integrate, invite
from support.journeys import Clock, connected, connections, made, returned
from support.sandbox import Provider
from support.visitor import Visitor

from broker.sandbox import Client, Faults
from vault.vault import Vault

DOWN = Faults(status=503, path="/oauth/revoke")


@pytest.fixture(autouse=True)
async def acme(tenant: Tenant, service: Running, provider: Provider) -> dict[str, Any]:
    return await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")


def ends(provider: Provider) -> list[str]:
    """How each grant ended at the provider; empty: it lives."""
    return [one.ended for one in provider.state.ledger.rows()]


async def gone(tenant: Tenant, found: dict[str, Any]) -> str:
    """Delete a connection; what became of its tokens."""
    deleted = made(await tenant.api.delete(f"/v1/connections/{found['id']}"))
    assert deleted["id"] == found["id"]
    return str(deleted["revoked"])


async def recorded(tenant: Tenant, action: str = "connection.revoke") -> list[str]:
    events = made(await tenant.api.get(f"/v1/audit-events?action={action}"))["data"]
    return [one["outcome"] for one in events]


async def stored(clock: Clock, tenant: Tenant) -> int:
    """How many tokens of this workspace are still kept, wherever."""
    found = await clock.do(
        "select (select count(*) from vault.connection_tokens where workspace_id = $1)"
        " + (select count(*) from vault.revocation_tokens where workspace_id = $1) as number",
        tenant.id,
    )
    return int(found[0]["number"])


async def test_a_connection_that_is_deleted_is_over_at_the_provider_and_here(
    tenant: Tenant, provider: Provider, ada: Visitor, clock: Clock
) -> None:
    mine = await connected(tenant.api, ada)
    assert await gone(tenant, mine) == "revoked"
    assert ends(provider) == ["revoked"]
    assert await stored(clock, tenant) == 0
    assert (await tenant.api.get(f"/v1/connections/{mine['id']}")).status == 404
    assert (await tenant.api.delete(f"/v1/connections/{mine['id']}")).status == 404
    assert await recorded(tenant) == ["revoked"]


async def test_it_is_found_by_user_and_integration_too(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    await connected(tenant.api, ada)
    reply = made(await tenant.api.delete("/v1/users/ada/connections/acme"))
    assert reply["revoked"] == "revoked"
    assert ends(provider) == ["revoked"]


async def test_a_provider_whose_revocation_ends_the_whole_grant_is_not_asked_while_a_sibling_lives(
    tenant: Tenant, provider: Provider, ada: Visitor, grace: Visitor
) -> None:
    first = await connected(tenant.api, ada)
    second = await connected(tenant.api, grace, user="another")
    assert await gone(tenant, first) == "sibling_alive"
    assert ends(provider) == ["", ""]
    assert await gone(tenant, second) == "revoked"  # where it is so, the last one takes all along
    assert ends(provider) == ["", "revoked"]
    assert await recorded(tenant, "connection.delete") == ["retrying", "sibling_alive"]


async def test_a_sibling_behind_another_integration_with_the_same_client_counts(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    work = f"{service.base}/oauth/oidc/acme_work/callback"
    both = [f"{service.base}/oauth/oidc/acme/callback", work]
    await integrate(tenant.api, provider, work, name="acme_work")
    provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=both)
    mine = await connected(tenant.api, ada)
    await connected(tenant.api, ada, integrations=["acme_work"])
    assert await gone(tenant, mine) == "sibling_alive"
    assert ends(provider) == ["", ""]


async def test_a_connection_that_only_waits_to_be_confirmed_is_no_sibling(
    tenant: Tenant, provider: Provider, ada: Visitor, grace: Visitor
) -> None:
    mine = await connected(tenant.api, ada)
    await returned(grace, await invite(tenant.api, "another"))
    assert await gone(tenant, mine) == "revoked"
    assert ends(provider)[0] == "revoked"


async def test_what_the_provider_does_not_take_back_now_is_given_back_by_the_worker(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    mine = await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    assert await gone(tenant, mine) == "retrying"
    assert await connections(tenant.api) == []
    for _ in range(3):  # again and again, while it is down
        assert await clock.revocations_are_due(tenant.id) == 1
        await vault.retry_revocations()
    assert ends(provider) == [""]
    assert await recorded(tenant) == []
    provider.misbehave(None)
    await vault.retry_revocations()  # nothing is due: the pauses grow
    assert ends(provider) == [""]
    await clock.revocations_are_due(tenant.id)
    await vault.retry_revocations()
    assert ends(provider) == ["revoked"]
    assert await recorded(tenant) == ["revoked"]
    assert await stored(clock, tenant) == 0


async def test_the_pauses_between_two_tries_grow_and_have_an_end(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    mine = await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    await gone(tenant, mine)
    pauses = []
    for _ in range(8):
        await clock.revocations_are_due(tenant.id)
        await vault.retry_revocations()
        [row] = await clock.do(
            "select extract(epoch from due_at - now()) as left from vault.revocations"
            " where workspace_id = $1",
            tenant.id,
        )
        pauses.append(round(float(row["left"]) / 60))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_after_a_day_it_is_given_up_and_forgotten(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    mine = await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    await gone(tenant, mine)
    await clock.revocations_are_due(tenant.id, too_late=True)
    await vault.retry_revocations()
    assert await recorded(tenant) == ["given_up"]
    assert await stored(clock, tenant) == 0


async def test_an_account_that_was_connected_again_meanwhile_is_left_alone(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    mine = await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    assert await gone(tenant, mine) == "retrying"
    provider.misbehave(None)
    await connected(tenant.api, ada)  # at this provider both consents are one grant
    await clock.revocations_are_due(tenant.id)
    await vault.retry_revocations()
    assert ends(provider) == ["", ""]
    assert await recorded(tenant) == ["sibling_alive"]
    assert await stored(clock, tenant) == 1


async def test_two_workers_do_not_try_together(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    import asyncio

    mine = await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    await gone(tenant, mine)
    provider.misbehave(None)
    provider.state.requests.clear()
    await clock.revocations_are_due(tenant.id)
    await asyncio.gather(*(vault.retry_revocations() for _ in range(4)))
    assert [one.path for one in provider.state.requests].count("/oauth/revoke") == 1


async def test_a_token_that_the_provider_knows_no_more_is_as_good_as_given_back(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    mine = await connected(tenant.api, ada)
    provider.state.revoke_all()
    assert await gone(tenant, mine) == "revoked"


async def test_what_was_typed_has_nowhere_to_go_back_to(tenant: Tenant) -> None:
    made(await tenant.api.put("/v1/integrations/typed", {"provider": "api-key"}))
    mine = made(await tenant.api.put("/v1/users/ada/connections/typed", {"api_key": "k"}))
    assert await gone(tenant, mine) == "nothing_to_revoke"


async def test_a_provider_without_a_revocation_says_so(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    made(
        await tenant.api.put(
            "/v1/integrations/plain",
            {
                "provider": "oauth2",
                "client_id": "app",
                "client_secret": SECRET,
                "scopes": ["openid"],
                "variables": {
                    "authorize_url": f"{provider.base}/oauth/authorize",
                    "token_url": provider.token_url,
                    "userinfo_url": f"{provider.base}/oauth/userinfo",
                },
            },
        )
    )
    callback = f"{service.base}/oauth/oauth2/plain/callback"
    provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=[callback])
    mine = await connected(tenant.api, ada, integrations=["plain"])
    assert mine["account"]["id"] == "ada"
    assert await gone(tenant, mine) == "not_supported"
    assert ends(provider) == [""]


async def test_a_user_who_is_deleted_takes_every_connection_and_the_key_along(
    tenant: Tenant, provider: Provider, ada: Visitor, clock: Clock
) -> None:
    await connected(tenant.api, ada)
    await connected(tenant.api, ada, environment="staging")
    made(await tenant.api.put("/v1/integrations/typed", {"provider": "api-key"}))
    made(await tenant.api.put("/v1/users/ada/connections/typed", {"api_key": "k"}))
    told = made(await tenant.api.delete("/v1/users/ada"))["connections"]
    outcomes = sorted(one["revoked"] for one in told)
    assert len(told) == 3
    assert outcomes.count("nothing_to_revoke") == 1
    assert set(ends(provider)) == {"revoked"}  # both, though each was the other's sibling
    assert await connections(tenant.api) == []
    [keys] = await clock.do(
        "select count(*) as number from vault.user_keys where workspace_id = $1", tenant.id
    )
    assert keys["number"] == 0
    assert await stored(clock, tenant) == 0
    assert (await tenant.api.get("/v1/users/ada")).status == 404


async def test_a_user_who_is_deleted_while_the_provider_is_down_is_gone_and_given_back_later(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    await connected(tenant.api, ada)
    provider.misbehave(DOWN)
    [told] = made(await tenant.api.delete("/v1/users/ada"))["connections"]
    assert told["revoked"] == "retrying"
    assert (await tenant.api.get("/v1/users/ada")).status == 404
    provider.misbehave(None)
    await clock.revocations_are_due(tenant.id)
    await vault.retry_revocations()  # the user's key is shredded by now
    assert ends(provider) == ["revoked"]


async def test_a_slow_provider_does_not_hold_a_deletion_up(
    tenant: Tenant, provider: Provider, ada: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vault.vault.returns as module

    monkeypatch.setattr(module, "REVOKE_SECONDS", 0.3)
    mine = await connected(tenant.api, ada)
    provider.misbehave(Faults(latency=3, path="/oauth/revoke"))
    assert await gone(tenant, mine) == "retrying"
