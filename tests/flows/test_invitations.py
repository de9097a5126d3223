"""Connect sessions: what one is, what becomes of it, how it is found, and how it is taken back."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import SECRET, integrate, invite
from support.journeys import BACK, Clock, connections, left, made, returned
from support.sandbox import Provider
from support.visitor import Visitor

from broker.sandbox import Client

PATH = "/v1/connect-sessions"


@pytest.fixture(autouse=True)
async def acme(tenant: Tenant, service: Running, provider: Provider) -> dict[str, Any]:
    return await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")


async def another(tenant: Tenant, provider: Provider, service: Running) -> None:
    """A second account of the same provider is a second integration."""
    made_here = f"{service.base}/oauth/oidc/acme_work/callback"
    both = [f"{service.base}/oauth/oidc/acme/callback", made_here]
    await integrate(tenant.api, provider, made_here, name="acme_work")
    provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=both)


async def test_a_link_lasts_a_quarter_of_an_hour_and_is_shown_once(
    tenant: Tenant, service: Running
) -> None:
    session = await invite(tenant.api)
    assert session["url"].startswith(f"{service.base}/connect/ktc_")
    shown = made(await tenant.api.get(f"{PATH}/{session['id']}"))
    assert "url" not in shown
    made_at, ends = map(datetime.fromisoformat, (shown["created_at"], shown["expires_at"]))
    assert ends - made_at == timedelta(minutes=15)
    assert shown["expired"] is False


async def test_an_invitation_says_what_it_is(tenant: Tenant) -> None:
    session = await invite(tenant.api, environment="staging", return_url=BACK, replace_account=True)
    shown = made(await tenant.api.get(f"{PATH}/{session['id']}"))
    for name in ("created_at", "expires_at"):
        del shown[name]
    assert shown == {
        "id": session["id"],
        "user_id": "ada",
        "environment": "staging",
        "integrations": [{"integration": "acme", "status": "open", "outcome": None}],
        "return_url": BACK,
        "confirm": "backend",
        "replace_account": True,
        "expired": False,
    }


async def test_inviting_makes_the_user_and_opening_uses_nothing_up(
    tenant: Tenant, ada: Visitor, grace: Visitor
) -> None:
    session = await invite(tenant.api, "new-user")
    assert (await tenant.api.get("/v1/users/new-user")).status == 200
    for _ in range(3):
        assert (await ada.get(session["url"])).title == "Connect Acme"
        assert (await grace.get(session["url"])).title == "Connect Acme"
    assert (await returned(ada, session)).title == "Is this you?"


async def test_an_invitation_that_is_refused_or_repeated_makes_no_user(tenant: Tenant) -> None:
    once = {"Idempotency-Key": "k1"}
    body = {"user_id": "eve", "integrations": ["acme"]}
    assert (await tenant.api.post(PATH, body, headers=once)).status == 201
    other = await tenant.api.post(PATH, {**body, "user_id": "mallory"}, headers=once)
    assert other.code == "idempotency_mismatch"
    away = {"user_id": "mallory", "return_url": "https://elsewhere.example/"}
    assert (await tenant.api.post(PATH, away)).code == "invalid"
    assert (await tenant.api.get("/v1/users/mallory")).status == 404
    assert (await tenant.api.delete("/v1/users/eve")).status == 200
    again = await tenant.api.post(PATH, body, headers=once)
    assert again.status == 201
    assert (await tenant.api.get("/v1/users/eve")).status == 404


async def test_a_link_offers_every_integration_unless_it_names_some(
    tenant: Tenant, provider: Provider, service: Running, ada: Visitor
) -> None:
    await another(tenant, provider, service)
    every = await ada.get((await invite(tenant.api))["url"])
    assert "Acme work" in every.text
    one = await ada.get((await invite(tenant.api, integrations=["acme_work"]))["url"])
    assert one.title == "Connect Acme work"


async def test_a_link_with_two_integrations_is_done_when_both_are(
    tenant: Tenant, provider: Provider, service: Running, ada: Visitor
) -> None:
    await another(tenant, provider, service)
    session = await invite(tenant.api)
    for name in ("acme", "acme_work"):
        page = await ada.get(f"{session['url']}/{name}")
        back = await ada.follow(await ada.submit(page))
        await ada.submit(await ada.follow(back), _answer="yes")
    shown = made(await tenant.api.get(f"{PATH}/{session['id']}"))
    assert [one["status"] for one in shown["integrations"]] == ["connected", "connected"]
    found = await connections(tenant.api)
    assert {one["integration"] for one in found} == {"acme", "acme_work"}
    assert "Connected" in (await ada.get(session["url"])).text


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"integrations": ["nothing"]}, "/integrations/nothing"),
        ({"confirm": "backend"}, "/return_url"),
        ({"return_url": "https://elsewhere.example/"}, "/return_url"),
        ({"return_url": "javascript:alert(1)"}, "/return_url"),
        ({"user_id": "no\nuser"}, "/user_id"),
    ],
)
async def test_what_no_invitation_can_be_is_refused_by_its_place(
    tenant: Tenant, body: dict[str, Any], pointer: str
) -> None:
    refused = await tenant.api.post(PATH, {"user_id": "ada", **body})
    assert (refused.status, refused.code) == (422, "invalid")
    assert pointer in refused.body.decode()


async def test_a_return_url_is_of_a_registered_origin_letter_by_letter(tenant: Tenant) -> None:
    settings = {"secret_fallback": True, "return_origins": ["https://app.example"]}
    made(await tenant.api.put("/v1/settings", settings))
    await invite(tenant.api, return_url="https://app.example/settings?x=1")
    for other in (
        "https://app.example.evil.example/",
        "http://app.example/",
        "https://app.example:444/",
        "https://app.example@evil.example/",
        "https://APP.example/",
    ):
        refused = await tenant.api.post(PATH, {"user_id": "ada", "return_url": other})
        assert refused.status == 422, other


async def test_the_same_request_repeated_makes_one_invitation_and_shows_no_link_again(
    tenant: Tenant,
) -> None:
    key = {"Idempotency-Key": "once"}
    first = made(await tenant.api.post(PATH, {"user_id": "ada"}, headers=key))
    again = made(await tenant.api.post(PATH, {"user_id": "ada"}, headers=key))
    assert again == {**first, "url": None}
    other = await tenant.api.post(PATH, {"user_id": "bob"}, headers=key)
    assert other.code == "idempotency_mismatch"


async def test_invitations_are_listed_by_user_and_walked_by_cursor(tenant: Tenant) -> None:
    for user in ("ada", "ada", "bob"):
        await invite(tenant.api, user)
    first = made(await tenant.api.get(f"{PATH}?limit=2"))
    rest = made(await tenant.api.get(f"{PATH}?limit=2&cursor={first['next_cursor']}"))
    assert [one["user_id"] for one in [*first["data"], *rest["data"]]] == ["ada", "ada", "bob"]
    assert rest["next_cursor"] is None
    mine = made(await tenant.api.get(f"{PATH}?user_id=bob"))["data"]
    assert [one["user_id"] for one in mine] == ["bob"]


async def test_a_key_of_one_environment_lists_and_takes_back_only_there(tenant: Tenant) -> None:
    production = await invite(tenant.api)
    staging = await invite(tenant.api, environment="staging")
    body = {"name": "staging", "scopes": ["connect"], "environments": ["staging"]}
    tied = tenant.api.with_key(made(await tenant.api.post("/v1/keys", body))["key"])
    assert [one["id"] for one in made(await tied.get(PATH))["data"]] == [staging["id"]]
    for call in (tied.get, tied.delete):
        assert (await call(f"{PATH}/{production['id']}")).status == 404
    complete = {"code": "x", "user_id": "ada"}
    assert (await tied.post(f"{PATH}/{production['id']}/complete", complete)).status == 404
    assert (await tied.delete(f"{PATH}/{staging['id']}")).status == 204


async def test_nobody_else_sees_an_invitation(tenant: Tenant, stranger: Tenant) -> None:
    session = await invite(tenant.api)
    for call in (stranger.api.get, stranger.api.delete):
        assert (await call(f"{PATH}/{session['id']}")).status == 404
    assert made(await stranger.api.get(PATH))["data"] == []


async def test_an_invitation_that_was_taken_back_opens_nothing(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invite(tenant.api)
    page = await ada.get(session["url"])
    under_way = await ada.follow(await ada.submit(page))
    assert (await tenant.api.delete(f"{PATH}/{session['id']}")).status == 204
    for end in (await ada.get(session["url"]), await ada.submit(page), await ada.follow(under_way)):
        assert end.title == "This link no longer works"
    assert (await tenant.api.get(f"{PATH}/{session['id']}")).status == 404
    assert (await tenant.api.delete(f"{PATH}/{session['id']}")).status == 404
    assert await connections(tenant.api) == []


async def test_taking_an_invitation_back_ends_what_waits_in_it(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invite(tenant.api)
    confirmation = await returned(ada, session)
    assert [one["state"] for one in await connections(tenant.api)] == ["pending"]
    await tenant.api.delete(f"{PATH}/{session['id']}")
    assert await connections(tenant.api) == []
    assert (await ada.submit(confirmation, _answer="yes")).title == "This link no longer works"
    assert await connections(tenant.api) == []


async def test_what_was_connected_through_an_invitation_stays_when_it_is_taken_back(
    tenant: Tenant, ada: Visitor
) -> None:
    session = await invite(tenant.api)
    await ada.submit(await returned(ada, session), _answer="yes")
    await tenant.api.delete(f"{PATH}/{session['id']}")
    assert [one["state"] for one in await connections(tenant.api)] == ["active"]


async def test_the_code_is_of_use_for_the_invited_user_once_and_in_time(
    tenant: Tenant, ada: Visitor, clock: Clock
) -> None:
    async def code_of(session: dict[str, Any]) -> str:
        return (await returned(ada, session)).query["code"]

    session = await invite(tenant.api, return_url=BACK)
    path = f"{PATH}/{session['id']}/complete"
    code = await code_of(session)
    wrong = await tenant.api.post(path, {"code": code + "x", "user_id": "ada"})
    assert wrong.status == 404
    other = await tenant.api.post(path, {"code": code, "user_id": "bob"})
    assert (other.status, other.code) == (422, "invalid")
    assert await connections(tenant.api) == []
    late = await invite(tenant.api, return_url=BACK)
    code = await code_of(late)
    await clock.end_tries(late["id"])
    path = f"{PATH}/{late['id']}/complete"
    assert (await tenant.api.post(path, {"code": code, "user_id": "ada"})).status == 409


async def test_a_workspace_without_integrations_invites_nobody(stranger: Tenant) -> None:
    refused = await stranger.api.post(PATH, {"user_id": "ada"})
    assert (refused.status, refused.code) == (409, "conflict")


async def test_progress_is_seen_while_the_person_is_away(tenant: Tenant, ada: Visitor) -> None:
    session = await invite(tenant.api)

    async def status() -> str:
        shown = made(await tenant.api.get(f"{PATH}/{session['id']}"))
        return str(shown["integrations"][0]["status"])

    assert await status() == "open"
    consent = await left(ada, session)
    assert await status() == "started"
    page = await ada.follow(await ada.follow(consent))
    assert await status() == "waiting"
    await ada.submit(page, _answer="yes")
    assert await status() == "connected"
