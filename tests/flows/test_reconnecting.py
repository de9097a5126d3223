"""One place, one connection: other accounts, environments, and whose account it is."""

from typing import Any

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import integrate, invite
from support.journeys import BACK, Clock, connected, connection, connections, left, made, returned
from support.sandbox import Provider
from support.visitor import Visitor

from broker.sandbox import Consent, Faults
from vault.vault import Vault


@pytest.fixture
async def acme(tenant: Tenant, service: Running, provider: Provider) -> dict[str, Any]:
    return await integrate(
        tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback", name="acme"
    )


def living(provider: Provider) -> list[str]:
    """Whose grants live at the provider."""
    return [one.account for one in provider.state.ledger.rows() if not one.ended]


@pytest.mark.usefixtures("acme")
async def test_reconnecting_the_same_account_takes_the_place_of_the_one_before(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    first = await connected(tenant.api, ada)
    second = await connected(tenant.api, ada)
    assert second["id"] == first["id"]
    assert (first["generation"], second["generation"]) == (1, 2)
    assert second["consented_at"] > first["consented_at"]
    assert len(await connections(tenant.api)) == 1
    # The new consent lives on the same grant as the old one: nothing may be given back.
    assert living(provider) == ["ada", "ada"]


@pytest.mark.usefixtures("acme")
async def test_another_account_is_refused_and_the_first_goes_on(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    first = await connected(tenant.api, ada)
    provider.state.consent = Consent(auto="grace")
    end = await returned(ada, await invite(tenant.api, return_url=BACK))
    assert end.title == "That is another account"
    assert end.status == 409
    assert "status=wrong_account" in end.text
    assert "grace@example.com" in end.text
    assert await connection(tenant.api) == first


@pytest.mark.usefixtures("acme")
async def test_another_account_that_was_asked_for_replaces_and_the_old_grant_is_given_back(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    first = await connected(tenant.api, ada)
    assert first["account"] == {
        "id": "ada",
        "email": "ada@example.com",
        "label": None,
    }
    provider.state.consent = Consent(auto="grace")
    second = await connected(tenant.api, ada, replace_account=True)
    assert second["id"] == first["id"]
    assert second["generation"] == 2
    assert second["account"]["id"] == "grace"
    assert living(provider) == ["grace"]
    actions = [one["action"] for one in made(await tenant.api.get("/v1/audit-events"))["data"]]
    assert actions.count("connection.revoke") == 1


@pytest.mark.usefixtures("acme")
async def test_an_old_grant_on_which_another_connection_lives_is_not_given_back(
    tenant: Tenant, provider: Provider, ada: Visitor, grace: Visitor
) -> None:
    await connected(tenant.api, ada)
    await connected(tenant.api, grace, user="grace")  # the same account, by another user
    provider.state.consent = Consent(auto="grace")
    await connected(tenant.api, ada, replace_account=True)
    assert living(provider) == ["ada", "ada", "grace"]


@pytest.mark.usefixtures("acme")
async def test_an_old_grant_that_cannot_be_given_back_now_is_given_back_later(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    await connected(tenant.api, ada)
    provider.state.consent = Consent(auto="grace")
    provider.misbehave(Faults(status=503, path="/oauth/revoke"))
    await connected(tenant.api, ada, replace_account=True)
    assert living(provider) == ["ada", "grace"]
    provider.misbehave(None)
    assert await clock.revocations_are_due(tenant.id) == 1
    await vault.retry_revocations()
    assert living(provider) == ["grace"]


@pytest.mark.usefixtures("acme")
async def test_an_account_that_cannot_be_told_is_not_taken_for_the_known_one(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    await connected(tenant.api, ada)
    reply = await tenant.api.put(
        "/v1/integrations/acme",
        {
            "provider": "oidc",
            "client_id": "app",
            "client_secret": "the-secret-of-the-app",
            "scopes": ["email"],  # without openid nobody is named
            "variables": {"issuer": provider.base},
        },
    )
    assert reply.status == 200
    end = await returned(ada, await invite(tenant.api))
    assert end.title == "That is another account"


@pytest.mark.usefixtures("acme")
async def test_a_connection_in_one_environment_is_none_in_another(
    tenant: Tenant, ada: Visitor
) -> None:
    await connected(tenant.api, ada)
    path = "/v1/users/ada/connections/acme"
    assert (await tenant.api.get(f"{path}?environment=staging")).status == 404
    staging = await connected(tenant.api, ada, environment="staging")
    assert staging["environment"] == "staging"
    assert staging["generation"] == 1
    assert (await connection(tenant.api))["id"] != staging["id"]
    assert [one["id"] for one in await connections(tenant.api, "?environment=staging")] == [
        staging["id"]
    ]


async def test_an_integration_that_shares_its_connections_lends_production_to_read_not_to_delete(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    callback = f"{service.base}/oauth/oidc/acme/callback"
    await integrate(tenant.api, provider, callback, share_connections=True)
    mine = await connected(tenant.api, ada)
    assert (await connection(tenant.api, environment="staging"))["id"] == mine["id"]
    path = "/v1/users/ada/connections/acme?environment=staging"
    assert (await tenant.api.delete(path)).status == 404
    own = await connected(tenant.api, ada, environment="staging")
    assert own["environment"] == "staging"
    assert own["id"] != mine["id"]


async def test_a_key_of_one_environment_sees_and_invites_in_that_one_alone(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")
    mine = await connected(tenant.api, ada)
    body = {"name": "staging", "scopes": ["connect"], "environments": ["staging"]}
    tied = tenant.api.with_key(made(await tenant.api.post("/v1/keys", body))["key"])
    assert await connections(tied) == []
    assert (await tied.get(f"/v1/connections/{mine['id']}")).status == 404
    assert (await tied.delete(f"/v1/connections/{mine['id']}")).status == 404
    invitation = {"user_id": "ada", "environment": "production"}
    assert (await tied.post("/v1/connect-sessions", invitation)).status == 403
    own = made(await tied.post("/v1/connect-sessions", {"user_id": "ada"}))
    assert made(await tied.get(f"/v1/connect-sessions/{own['id']}"))["environment"] == "staging"


@pytest.mark.usefixtures("acme")
async def test_connections_are_found_by_the_providers_own_id_of_an_account(
    tenant: Tenant, provider: Provider, ada: Visitor, grace: Visitor, clock: Clock
) -> None:
    one = await connected(tenant.api, ada)
    other = await connected(tenant.api, grace, user="someone")  # the same account once more
    provider.state.consent = Consent(auto="grace")
    await connected(tenant.api, grace, user="grace")
    found = await connections(tenant.api, "?account=ada")
    assert {each["id"] for each in found} == {one["id"], other["id"]}
    assert [each["user_id"] for each in await connections(tenant.api, "?account=grace")] == [
        "grace"
    ]
    assert await connections(tenant.api, "?account=nobody") == []
    stored = await clock.do(
        "select account from vault.connections where workspace_id = $1", tenant.id
    )
    # Three letters may stand in random bytes by chance; in the bytes of three they do not.
    assert len(stored) == 3
    assert sum(b"ada" in row["account"] or b"grace" in row["account"] for row in stored) < 2
    assert all(len(row["account"]) >= 16 for row in stored)


@pytest.mark.usefixtures("acme")
async def test_the_same_account_looks_different_in_another_workspace(
    tenant: Tenant,
    stranger: Tenant,
    service: Running,
    provider: Provider,
    ada: Visitor,
    clock: Clock,
) -> None:
    await integrate(stranger.api, provider, f"{service.base}/oauth/oidc/acme/callback")
    await connected(tenant.api, ada)
    await connected(stranger.api, ada)
    stored = await clock.do(
        "select distinct account from vault.connections where workspace_id = any($1)",
        [tenant.id, stranger.id],
    )
    assert len(stored) == 2
    assert len(await connections(stranger.api, "?account=ada")) == 1


@pytest.mark.usefixtures("acme")
async def test_a_list_of_connections_narrows_and_is_walked_by_cursor(
    tenant: Tenant, ada: Visitor
) -> None:
    for user in ("ada", "bob", "cleo"):
        await connected(tenant.api, ada, user=user)
    first = made(await tenant.api.get("/v1/connections?limit=2"))
    assert len(first["data"]) == 2
    rest = made(await tenant.api.get(f"/v1/connections?limit=2&cursor={first['next_cursor']}"))
    assert [one["user_id"] for one in rest["data"]] == ["cleo"]
    assert rest["next_cursor"] is None
    assert await connections(tenant.api, "?state=pending") == []
    assert len(await connections(tenant.api, "?integration=acme&state=active")) == 3
    await left(ada, await invite(tenant.api, "dan"))
    assert (await tenant.api.get("/v1/users/dan/connections")).json["data"] == []
    assert (await tenant.api.get("/v1/users/nobody/connections")).status == 404
