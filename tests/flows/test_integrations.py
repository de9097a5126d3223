"""App registrations: one for every environment, checked, rotated, changed and deleted in use."""

import json
from typing import Any

import pytest
from conftest import Tenant
from support.api import Api, Running
from support.configured import Configured
from support.connecting import SECRET, integrate, invite
from support.journeys import connected, connection, connections, left, made, returned
from support.sandbox import Provider
from support.visitor import Visitor

from broker.sandbox import Client, Consent, Faults

PATH = "/v1/integrations/acme"


@pytest.fixture
def callback(service: Running) -> str:
    return f"{service.base}/oauth/oidc/acme/callback"


def body_of(provider: Provider, **more: Any) -> dict[str, Any]:
    return {
        "provider": "oidc",
        "client_id": "app",
        "client_secret": SECRET,
        "scopes": ["openid", "email", "offline_access"],
        "variables": {"issuer": provider.base},
        **more,
    }


async def checked(api: Api, environment: str = "production") -> dict[str, tuple[bool, str]]:
    """What a check found; whether all of it is well stands under ``ok``."""
    found = made(await api.post(f"{PATH}/check", {"environment": environment}))
    said = {one["what"]: (one["ok"], one["detail"]) for one in found["findings"]}
    return {"ok": (found["ok"], ""), **said}


async def two_clients(tenant: Tenant, provider: Provider, callback: str) -> None:
    """One integration, and a client of its own for each environment."""
    for name in ("live", "test"):
        provider.state.clients[f"app-{name}"] = Client(
            secret=f"secret-of-{name}", redirect_uris=[callback]
        )
    provider.state.consent = Consent(auto="allow")
    configured = Configured(tenant.api)
    await configured.strings("app", {"production": "app-live", "staging": "app-test"})
    live = await configured.secret("live", "secret-of-live")
    test = await configured.secret("test", "secret-of-test")
    await configured.secrets("app_secret", {"production": live, "staging": test})
    made(
        await tenant.api.put(
            PATH,
            body_of(
                provider,
                client_id="{{system__env_app}}",
                client_secret={"env_var_label": "app_secret"},
            ),
        )
    )


async def test_one_integration_serves_production_and_staging_with_a_client_each(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await two_clients(tenant, provider, callback)
    await connected(tenant.api, ada)
    await connected(tenant.api, ada, environment="staging")
    clients = [(one.client, one.ended) for one in provider.state.ledger.rows()]
    assert clients == [("app-live", ""), ("app-test", "")]
    for environment in ("production", "staging"):
        assert (await checked(tenant.api, environment))["ok"][0]


async def test_each_client_gives_its_own_back(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await two_clients(tenant, provider, callback)
    await connected(tenant.api, ada)
    staging = await connected(tenant.api, ada, environment="staging")
    gone = made(await tenant.api.delete(f"/v1/connections/{staging['id']}"))
    ended = {one.client: one.ended for one in provider.state.ledger.rows()}
    assert (gone["revoked"], ended) == ("revoked", {"app-live": "", "app-test": "revoked"})


async def test_a_check_names_the_environment_whose_value_is_wrong(
    tenant: Tenant, provider: Provider, callback: str
) -> None:
    await two_clients(tenant, provider, callback)
    provider.state.clients["app-test"] = Client(secret="another", redirect_uris=[callback])
    assert (await checked(tenant.api))["ok"][0]
    found = await checked(tenant.api, "staging")
    assert not found["ok"][0]
    assert found["values"][0]
    assert found["client"][0] is False


@pytest.mark.parametrize("kind", ["literal", "secret", "variable"])
async def test_a_client_secret_is_a_text_a_secret_or_an_environment_variable(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor, kind: str
) -> None:
    configured = Configured(tenant.api)
    secret_id = await configured.secret("app", SECRET)
    await configured.secrets("app_secret", {"production": secret_id})
    forms: dict[str, Any] = {
        "literal": SECRET,
        "secret": {"secret_id": secret_id},
        "variable": {"env_var_label": "app_secret"},
    }
    shown = await integrate(tenant.api, provider, callback, client_secret=forms[kind])
    assert shown["client_secret"] == [None if kind == "literal" else forms[kind]]
    assert SECRET not in json.dumps(shown)
    assert (await connected(tenant.api, ada))["state"] == "active"


async def test_a_secret_that_an_integration_uses_is_known_to_be_in_use(
    tenant: Tenant, provider: Provider, callback: str
) -> None:
    secret_id = await Configured(tenant.api).secret("app", SECRET)
    await integrate(tenant.api, provider, callback, client_secret={"secret_id": secret_id})
    assert (await tenant.api.delete(f"/v1/convai/secrets/{secret_id}")).status in (400, 409)
    assert (await checked(tenant.api))["ok"][0]


async def test_a_secret_that_is_not_there_cannot_be_referred_to(
    tenant: Tenant, provider: Provider
) -> None:
    wrong = body_of(provider, client_secret={"secret_id": "secret_nothing"})
    assert (await tenant.api.put(PATH, wrong)).status == 422


async def test_while_a_secret_is_rotated_the_old_and_the_new_one_both_work(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback, client_secret=["the-new-one", SECRET])
    first = await connected(tenant.api, ada)
    redirects = provider.state.clients["app"].redirect_uris
    provider.state.clients["app"] = Client(secret="the-new-one", redirect_uris=redirects)
    second = await connected(tenant.api, ada)
    assert (first["generation"], second["generation"]) == (1, 2)
    assert (await checked(tenant.api))["ok"][0]
    # And what was given under either goes back, by whichever secret is taken.
    gone = made(await tenant.api.delete(f"/v1/connections/{second['id']}"))
    assert gone["revoked"] == "revoked"


async def test_one_after_the_other_and_no_secret_more_than_needed(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback, client_secret=[SECRET, "not-needed"])
    await connected(tenant.api, ada)
    assert len(provider.token_calls) == 1
    too_many = body_of(provider, client_secret=["a", "b", "c", "d"])
    assert (await tenant.api.put(PATH, too_many)).status == 422


@pytest.mark.parametrize(
    ("case", "what", "sentence"),
    [
        ("secret", "client", "client"),
        ("client", "client", "client"),
        ("silent", "token_endpoint", "answer"),
        ("issuer", "discovery", "metadata"),
        ("label", "values", "app_id"),
    ],
)
async def test_a_check_says_in_a_sentence_what_is_wrong(
    tenant: Tenant, provider: Provider, callback: str, case: str, what: str, sentence: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "secret": {"client_secret": "wrong"},
        "client": {"client_id": "nobody"},
        "issuer": {"variables": {"issuer": f"{provider.base}/nowhere"}},
        "label": {"client_id": "{{system__env_app_id}}"},
    }
    await integrate(tenant.api, provider, callback, **changes.get(case, {}))
    if case == "silent":
        provider.misbehave(Faults(drop="before"))
    found = await checked(tenant.api)
    assert not found["ok"][0]
    is_ok, detail = found[what]
    assert not is_ok
    assert sentence in detail.lower()
    assert detail.endswith(".")
    assert SECRET not in detail


async def test_a_check_that_is_well_uses_nothing_up(
    tenant: Tenant, provider: Provider, callback: str
) -> None:
    await integrate(tenant.api, provider, callback)
    found = await checked(tenant.api)
    assert found["ok"][0]
    assert set(found) == {"ok", "values", "discovery", "token_endpoint", "client"}
    assert provider.state.ledger.rows() == []


async def test_an_integration_that_is_changed_serves_what_is_connected_already(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback)
    before = await connected(tenant.api, ada)
    changed = await tenant.api.put(PATH, body_of(provider, scopes=["openid", "profile"]))
    assert changed.status == 200
    assert (await connection(tenant.api)) == before
    assert "profile" in (await connected(tenant.api, ada))["scopes"]


async def test_the_provider_of_an_integration_in_use_stays(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback)
    await connected(tenant.api, ada)
    other = {"provider": "google", "client_id": "x", "client_secret": "y"}
    refused = await tenant.api.put(PATH, other)
    assert (refused.status, refused.code) == (409, "conflict")
    assert made(await tenant.api.get(PATH))["provider"] == "oidc"


async def test_an_integration_is_deleted_once_nobody_is_connected_through_it(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback)
    mine = await connected(tenant.api, ada)
    refused = await tenant.api.delete(PATH)
    assert (refused.status, refused.code) == (409, "conflict")
    assert "1 of them" in refused.json["detail"]
    made(await tenant.api.delete(f"/v1/connections/{mine['id']}"))
    assert (await tenant.api.delete(PATH)).status == 204
    assert (await tenant.api.get(PATH)).status == 404


async def test_a_person_who_is_on_the_way_when_an_integration_goes_gets_a_calm_page(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback)
    session = await invite(tenant.api)
    back = await ada.follow(await left(ada, session))
    assert (await tenant.api.delete(PATH)).status == 204
    end = await ada.follow(back)
    assert end.status < 500
    assert end.title
    assert (await ada.get(session["url"])).status < 500
    assert await connections(tenant.api) == []


async def test_two_accounts_of_one_person_are_two_integrations(
    tenant: Tenant, provider: Provider, service: Running, ada: Visitor
) -> None:
    names = ("acme", "acme_work")
    urls = [f"{service.base}/oauth/oidc/{name}/callback" for name in names]
    for name, url in zip(names, urls, strict=True):
        await integrate(tenant.api, provider, url, name=name)
    provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=urls)
    await connected(tenant.api, ada)
    provider.state.consent = Consent(auto="grace")
    work = await connected(tenant.api, ada, integrations=["acme_work"])
    assert work["account"]["id"] == "grace"
    assert (await connection(tenant.api))["account"]["id"] == "ada"


async def test_a_person_does_not_change_what_the_integration_says(
    tenant: Tenant, provider: Provider, callback: str, ada: Visitor
) -> None:
    """The form is the person's: a field more in it must not send our secret somewhere else."""
    await integrate(tenant.api, provider, callback)
    session = await invite(tenant.api)
    shown = await left(ada, session, issuer="https://evil.example")
    assert shown.status == 200
    assert shown.title == "Connect Acme"
    assert (await returned(ada, session)).title == "Is this you?"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"provider": "nothing"}, "/provider"),
        ({"client_id": ""}, "/client_id"),
        ({"client_secret": None}, "/client_secret"),
        ({"client_id": "{{ 7 * 7 }}"}, "/client_id"),
        ({"variables": {}}, "/variables/issuer"),
        ({"variables": {"issuer": "ftp://x.example"}}, "/variables/issuer"),
        ({"variables": {"issuer": "https://x.example", "other": "x"}}, "/variables"),
        ({"authorize_params": {"state": "mine"}}, "/authorize_params"),
        ({"redirect_uri": "a b"}, "/redirect_uri"),
    ],
)
async def test_what_no_integration_can_be_is_refused_by_its_place(
    tenant: Tenant, provider: Provider, change: dict[str, Any], place: str
) -> None:
    refused = await tenant.api.put(PATH, body_of(provider) | change)
    assert refused.status == 422
    assert [one["pointer"] for one in refused.json["errors"]] == [place]


async def test_integrations_are_listed_and_nobody_elses(
    tenant: Tenant, stranger: Tenant, provider: Provider, callback: str
) -> None:
    for name in ("acme", "beta", "gamma"):
        await integrate(tenant.api, provider, callback, name=name)
    first = made(await tenant.api.get("/v1/integrations?limit=2"))
    rest = made(await tenant.api.get(f"/v1/integrations?cursor={first['next_cursor']}"))
    assert [one["id"] for one in [*first["data"], *rest["data"]]] == ["acme", "beta", "gamma"]
    assert made(await stranger.api.get("/v1/integrations"))["data"] == []
    assert (await stranger.api.get(PATH)).status == 404
    assert (await stranger.api.post(f"{PATH}/check", {})).status == 404
