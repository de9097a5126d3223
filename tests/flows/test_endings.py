"""How connecting can end: each end has its page for the person, and its word for the platform."""

from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import SECRET, integrate, invite
from support.journeys import BACK, Clock, connected, connection, left, made, returned
from support.sandbox import Provider
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Client, Consent, Faults, Issuing
from vault.vault import Vault


@pytest.fixture(autouse=True)
async def acme(tenant: Tenant, service: Running, provider: Provider) -> dict[str, Any]:
    return await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")


def told(page: Shown) -> dict[str, str]:
    """What the page's way back tells the platform; the registered address is left as it was."""
    [link] = [
        unescape(part.split('"')[0])
        for part in page.text.split('href="')[1:]
        if part.startswith(BACK.split("?")[0])
    ]
    return query_of(link)


def query_of(address: str) -> dict[str, str]:
    assert address.startswith(BACK + "&"), address
    found = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    found.pop("tab")
    return found


async def invited(tenant: Tenant, **more: Any) -> dict[str, Any]:
    return await invite(tenant.api, return_url=BACK, **more)


async def outcome_of(tenant: Tenant, session: dict[str, Any]) -> tuple[str, str | None]:
    [one] = made(await tenant.api.get(f"/v1/connect-sessions/{session['id']}"))["integrations"]
    return one["status"], one["outcome"]


async def test_what_waits_for_the_platform_goes_back_with_a_code(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invited(tenant)
    home = await returned(ada, session)
    found = query_of(home.location)
    code = found.pop("code")
    assert found == {"connect_session": session["id"], "integration": "acme", "status": "pending"}
    assert await outcome_of(tenant, session) == ("waiting", None)
    assert (await connection(tenant.api))["state"] == "pending"
    path = f"/v1/connect-sessions/{session['id']}/complete"
    done = await tenant.api.post(path, {"code": code, "user_id": "ada"})
    assert done.json["state"] == "active"
    assert await outcome_of(tenant, session) == ("connected", "connected")


async def test_what_the_person_confirmed_goes_back_without_one(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invited(tenant, confirm="page")
    home = await ada.submit(await returned(ada, session), _answer="yes")
    assert query_of(home.location) == {
        "connect_session": session["id"],
        "integration": "acme",
        "status": "connected",
    }


async def test_fewer_scopes_than_asked_for_are_said_on_the_page_and_stored(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    provider.state.consent = Consent(auto="allow", scopes=["openid"])
    end = await ada.submit(await returned(ada, await invite(tenant.api)), _answer="yes")
    assert end.title == "Connected, with less access"
    assert "Not allowed" in end.text
    assert "See your e-mail address" in end.text
    assert "Know that it is you" not in end.text
    assert "/connect/" not in end.text  # that link is used up: it would lead nowhere
    stored = await connection(tenant.api)
    assert stored["scopes"] == ["openid"]
    assert stored["missing_scopes"] == ["email"]  # a refresh token came, whatever it said of it


@pytest.mark.parametrize("confirm", ["page", "backend"])
async def test_fewer_scopes_than_asked_for_are_told_on_the_way_back(
    tenant: Tenant, provider: Provider, ada: Visitor, confirm: str
) -> None:
    provider.state.consent = Consent(auto="allow", scopes=["openid"])
    provider.state.issuing = Issuing(refresh=False)
    shown = await returned(ada, await invited(tenant, confirm=confirm))
    if confirm == "page":
        shown = await ada.submit(shown, _answer="yes")
    assert query_of(shown.location)["missing_scopes"] == "email offline_access"


async def test_what_was_asked_for_is_what_counts_not_what_the_integration_says_by_now(
    tenant: Tenant, provider: Provider, service: Running, ada: Visitor
) -> None:
    asks = await returned(ada, await invite(tenant.api))
    callback = f"{service.base}/oauth/oidc/acme/callback"
    await integrate(tenant.api, provider, callback, scopes=["openid", "email", "profile"])
    await ada.submit(asks, _answer="yes")
    assert (await connection(tenant.api))["missing_scopes"] == []


async def test_a_provider_that_says_nothing_of_scopes_gave_what_was_asked_for(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    provider.state.issuing = Issuing(without=["scope"])
    stored = await connected(tenant.api, ada)
    assert (stored["scopes"], stored["missing_scopes"]) == (None, [])


async def test_a_person_who_says_no_at_the_provider(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    provider.state.consent = Consent(auto="deny")
    session = await invited(tenant)
    end = await returned(ada, session)
    assert (end.status, end.title) == (200, "Nothing was connected")
    assert told(end)["status"] == "denied"
    assert await outcome_of(tenant, session) == ("failed", "denied")
    # And the same link is still good, once the person has thought about it.
    provider.state.consent = Consent(auto="allow")
    home = await returned(ada, session)
    assert query_of(home.location)["status"] == "pending"


async def test_a_person_who_is_not_the_one_says_no_on_the_last_page(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invited(tenant, confirm="page")
    end = await ada.submit(await returned(ada, session), _answer="no")
    assert end.title == "Nothing was connected"
    assert "not you" in end.text
    assert told(end)["status"] == "denied"
    assert (await tenant.api.get("/v1/connections")).json["data"] == []


@pytest.mark.parametrize(
    "fault",
    [
        Faults(status=500),
        Faults(drop="after"),
        Faults(answer="truncated"),
        Faults(status=200, body="<html>", content_type="text/html"),
        Faults(status=400, body='{"error":"invalid_grant"}'),
    ],
    ids=["broken", "silent", "cut", "no json", "refused"],
)
async def test_a_provider_that_fails(
    tenant: Tenant, provider: Provider, ada: Visitor, fault: Faults
) -> None:
    session = await invited(tenant)
    provider.misbehave(fault)
    end = await returned(ada, session)
    assert (end.status, end.title) == (200, "That did not work")
    assert told(end)["status"] == "provider_error"
    assert await outcome_of(tenant, session) == ("failed", "provider_error")
    provider.misbehave(None)
    assert query_of((await returned(ada, session)).location)["status"] == "pending"


async def test_a_provider_that_names_an_error_of_its_own(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    session = await invited(tenant)
    consent = await left(ada, session)
    state = consent.query["state"]
    # The person's browser brings what the provider wrote; none of it is believed or shown.
    end = await ada.get(
        f"{consent.query['redirect_uri']}?state={state}&error=server_error"
        "&error_description=%3Cb%3Eread+me%3C/b%3E"
    )
    assert end.title == "That did not work"
    assert "read me" not in end.text
    assert told(end)["status"] == "provider_error"


async def test_a_client_that_the_provider_does_not_know_is_the_platforms_to_mend(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    session = await invited(tenant)
    consent = await left(ada, session)
    redirect = provider.state.clients["app"].redirect_uris
    provider.state.clients["app"] = Client(secret=SECRET + "!", redirect_uris=redirect)
    end = await ada.follow(await ada.follow(consent))
    assert (end.status, end.title) == (409, "This cannot be connected now")
    assert told(end)["status"] == "misconfigured"


async def test_a_link_that_is_too_old(tenant: Tenant, ada: Visitor, clock: Clock) -> None:
    session = await invited(tenant)
    page = await ada.get(session["url"])
    await clock.end_session(session["id"])
    for end in (await ada.get(session["url"]), await ada.submit(page)):
        assert (end.status, end.title) == (410, "This link no longer works")
    assert made(await tenant.api.get(f"/v1/connect-sessions/{session['id']}"))["expired"] is True


async def test_a_way_back_that_took_too_long(tenant: Tenant, ada: Visitor, clock: Clock) -> None:
    session = await invited(tenant)
    back = await ada.follow(await left(ada, session))
    await clock.end_tries(session["id"])
    end = await ada.follow(back)
    assert (end.status, end.title) == (410, "This link no longer works")
    assert (await tenant.api.get("/v1/connections")).json["data"] == []


async def test_a_link_that_was_never_made(service: Running, ada: Visitor) -> None:
    end = await ada.get(f"{service.base}/connect/ktc_{'0' * 49}")
    assert (end.status, end.title) == (410, "This link no longer works")


async def test_another_browser_comes_back(tenant: Tenant, ada: Visitor, grace: Visitor) -> None:
    back = await ada.follow(await left(ada, await invited(tenant)))
    end = await grace.follow(back)
    assert (end.status, end.title) == (403, "Please finish where you began")
    assert query_of((await ada.follow(back)).location)["status"] == "pending"


async def test_a_way_back_that_is_gone_twice(tenant: Tenant, ada: Visitor) -> None:
    back = await ada.follow(await left(ada, await invited(tenant)))
    await ada.follow(back)
    again = await ada.follow(back)
    assert again.title in ("This is done already", "This link no longer works")
    assert "code=" not in again.text


async def test_a_link_that_has_done_its_work(tenant: Tenant, ada: Visitor) -> None:
    session = await invite(tenant.api)
    await ada.submit(await returned(ada, session), _answer="yes")
    assert (await ada.get(session["url"])).title == "This is done already"


async def test_the_former_try_of_the_same_person_is_over_when_a_new_one_begins(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invited(tenant)
    former = await ada.follow(await left(ada, session))
    latter = await ada.follow(await left(ada, session))
    assert (await ada.follow(former)).title == "This link no longer works"
    assert query_of((await ada.follow(latter)).location)["status"] == "pending"


async def test_every_end_is_in_the_record(tenant: Tenant, provider: Provider) -> None:
    provider.state.consent = Consent(auto="deny")
    async with visiting() as somebody:
        await returned(somebody, await invited(tenant))
    events = made(await tenant.api.get("/v1/audit-events?action=connect.end"))["data"]
    assert [one["outcome"] for one in events] == ["denied"]


async def test_another_browser_begins_while_the_first_is_under_way(
    tenant: Tenant, ada: Visitor, grace: Visitor
) -> None:
    session = await invited(tenant)
    back = await ada.follow(await left(ada, session))
    end = await grace.submit(await grace.get(session["url"]))
    assert (end.status, end.title) == (403, "Please finish where you began")
    assert query_of((await ada.follow(back)).location)["status"] == "pending"


async def test_the_last_look_names_the_user_the_account_and_what_is_allowed(
    tenant: Tenant, ada: Visitor
) -> None:
    made(await tenant.api.put("/v1/users/ada", {"name": "Ada Lovelace"}))
    page = await returned(ada, await invite(tenant.api))
    for told in ("Ada Lovelace (ada)", "ada@example.com", "Acme"):
        assert told in page.text
    listed = page.text.partition("<ul")[2].partition("</ul>")[0]
    assert "See your e-mail address" in listed


async def test_what_nobody_confirms_is_given_back(
    tenant: Tenant, provider: Provider, ada: Visitor, vault: Vault, clock: Clock
) -> None:
    session = await invited(tenant)
    await returned(ada, session)
    assert (await connection(tenant.api))["state"] == "pending"
    await clock.do(
        "update vault.connect_sessions set expires_at = now() - interval '2 hours'"
        " where session_id = $1",
        session["id"],
    )
    await vault.end_abandoned()
    assert made(await tenant.api.get("/v1/connections"))["data"] == []
    assert [one.ended for one in provider.state.ledger.rows()] == ["revoked"]
    assert await outcome_of(tenant, session) == ("failed", "expired")
    [end] = made(await tenant.api.get("/v1/audit-events?action=connect.end"))["data"]
    assert end["outcome"] == "expired"
    assert await vault.end_abandoned() == 0
