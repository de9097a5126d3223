"""Attaching an account to the wrong user: forged, injected, swapped, raced and replayed consents.

Mallory is a user of the same platform, or has a platform of her own, or runs a provider that a
workspace trusts. Whatever she does, Ada's account never serves another user, nor hers Ada.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from support.api import Api, Reply
from support.connecting import SECRET, invite
from support.journey import (
    Scene,
    altered,
    arrive,
    connect,
    consent,
    leave,
    pairs_of,
    set_scene,
    with_pairs,
)
from support.sandbox import Provider, providing
from support.visitor import Shown, Visitor

from broker.sandbox import Client

TURNS = 6
HOME = "http://127.0.0.1:9/back"


@pytest.fixture
async def evil() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


class Brought:
    """A person who came home to the platform with a code."""

    def __init__(self, scene: Scene, session_id: str, home: Shown) -> None:
        assert home.location.startswith(HOME), home.location
        self.code = home.query["code"]
        self.session_id = session_id
        self._scene = scene

    async def complete(
        self, user: str, *, api: Api | None = None, session_id: str = "", code: str = ""
    ) -> Reply:
        path = f"/v1/connect-sessions/{session_id or self.session_id}/complete"
        body = {"code": code or self.code, "user_id": user}
        return await (api or self._scene.tenant.api).post(path, body)


async def bring(scene: Scene, visitor: Visitor, user: str = "ada", **more: Any) -> Brought:
    made = await invite(scene.tenant.api, user, return_url=HOME, **more)
    return Brought(scene, made["id"], await arrive(visitor, made["url"]))


async def key(scene: Scene, *scopes: str, environments: tuple[str, ...] = ()) -> Api:
    """A narrower key of the same workspace."""
    body = {"name": "k", "scopes": list(scopes), "environments": list(environments)}
    made = await scene.tenant.api.post("/v1/keys", body)
    assert made.status == 201, made.body
    return scene.tenant.api.with_key(made.json["key"])


def exchanged(provider: Provider) -> int:
    return len(provider.token_calls)


# Login CSRF: an account lands at another user


async def test_a_link_that_was_sent_to_a_victim_attaches_nothing_until_the_victim_says_yes(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    link = await scene.link("mallory")
    await mallory.get(link)
    page = await arrive(ada, link)
    assert page.title == "Is this you?"
    assert "mallory" in page.text
    assert "ada@example.com" in page.text
    assert await scene.states("mallory") == ["pending"]
    connected = (await scene.tenant.api.get("/v1/users/mallory/connections")).json["data"]
    assert (connected[0]["generation"], connected[0]["expires_at"]) == (0, None)
    assert (await mallory.submit(page, _answer="yes")).title == "Please finish where you began"
    assert (await ada.submit(page, _answer="no")).title == "Nothing was connected"
    assert await scene.states("mallory") == []
    assert (await ada.submit(page, _answer="yes")).title == "This is done already"
    assert await scene.states("mallory") == []


async def test_a_link_that_was_sent_to_a_victim_is_refused_by_the_platform_that_knows_who_came(
    scene: Scene, ada: Visitor
) -> None:
    brought = await bring(scene, ada, "mallory")
    assert await scene.states("mallory") == ["pending"]
    refused = await brought.complete("ada")
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/user_id")
    assert (await brought.complete("mallory")).status in (404, 409)  # and it is used up
    assert await scene.states("mallory") == []
    assert (await scene.tenant.api.get("/v1/users/ada/connections")).status == 404


async def test_a_callback_that_was_sent_to_a_victim_attaches_nothing_to_the_victim(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    hers = await consent(mallory, await scene.link("mallory"), "grace")
    await leave(ada, await scene.link())
    assert (await ada.follow(hers)).title == "Please finish where you began"
    assert exchanged(scene.provider) == 0
    assert await scene.states() == []


async def test_a_code_of_the_attackers_in_the_victims_answer_buys_nothing(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    hers = await consent(mallory, await scene.link("mallory"), "grace")
    his = await consent(ada, await scene.link())
    injected = await ada.get(altered(his.location, code=hers.query["code"]))
    assert injected.title == "That did not work"
    assert await scene.states() == []
    assert await scene.states("mallory") == []


# The link


async def test_a_link_belongs_to_the_browser_that_began(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    link = await scene.link()
    page = await mallory.get(link)  # opening it uses nothing up
    away = await leave(ada, link)
    late = await mallory.submit(page)
    assert late.title == "Please finish where you began"
    assert "Location" not in late.headers
    confirmation = await ada.follow(await ada.follow(away))
    assert (await ada.submit(confirmation, _answer="yes")).title == "Your account is connected"
    assert (await mallory.get(link)).title == "This is done already"
    assert "Location" not in (await mallory.submit(page)).headers


async def test_only_what_the_link_offers_can_be_begun(scene: Scene, ada: Visitor) -> None:
    put = await scene.tenant.api.put(
        "/v1/integrations/secret_one", {"provider": "api-key", "variables": {}}
    )
    assert put.status == 201, put.body
    link = await scene.link(integrations=["acme"])
    page = await ada.get(link)
    for name in ("secret_one", "nothing", "acme%2f..%2fsecret_one"):
        shown = await ada.post(f"{link}/{name}", {**page.fields, "api_key": "k" * 20})
        assert shown.status in (404, 410), name
    assert await scene.states() == []


async def test_a_bearer_of_one_kind_opens_nothing_of_another(scene: Scene, ada: Visitor) -> None:
    made = await invite(scene.tenant.api, "ada", return_url=HOME)
    link = made["url"].rpartition("/")[2]
    back = await consent(ada, made["url"])
    state = back.query["state"]
    home = await ada.follow(back)
    code = home.query["code"]
    for wrong in (scene.tenant.key, state, code, made["id"], link[:-1], link + "A", "ktc_"):
        assert (await ada.get(f"{scene.base}/connect/{wrong}")).status == 410
    for wrong in (scene.tenant.key, link, code, made["id"], state[:-1]):
        assert (await ada.get(f"{scene.callback}?state={wrong}&code=x")).status == 410
    brought = Brought(scene, made["id"], home)
    for wrong in (scene.tenant.key, link, state, made["id"], code[:-1], code.swapcase()):
        assert (await brought.complete("ada", code=wrong)).status == 404
    assert (await scene.tenant.api.with_key(link).get("/v1/keys")).status == 401
    assert (await brought.complete("ada")).status == 200


# Another workspace, another integration, another provider


async def test_answers_of_two_workspaces_cannot_be_swapped(
    scene: Scene, stranger: Tenant, evil: Provider, ada: Visitor
) -> None:
    other = await set_scene(stranger, scene.base, evil)
    hers = await consent(ada, await other.link("mallory"))  # one browser, both workspaces
    his = await consent(ada, await scene.link())
    swapped = await ada.get(altered(his.location, code=hers.query["code"]))
    assert swapped.title == "That did not work"
    assert exchanged(evil) == 0
    swapped = await ada.get(altered(hers.location, code=his.query["code"], iss=scene.provider.base))
    assert swapped.title == "That did not work"
    assert await scene.states() == []
    assert await other.states("mallory") == []


async def test_a_page_of_one_workspace_does_not_confirm_in_another(
    scene: Scene, stranger: Tenant, evil: Provider, ada: Visitor
) -> None:
    other = await set_scene(stranger, scene.base, evil)
    hers = await arrive(ada, await other.link("mallory"))
    his = await arrive(ada, await scene.link())
    mixed = {**hers.fields, "_state": his.fields["_state"], "_answer": "yes"}
    assert (await ada.post(his.action, mixed)).title == "Please finish where you began"
    assert await scene.states() == ["pending"]
    assert await other.states("mallory") == ["pending"]


async def test_a_provider_that_sends_people_on_to_another_gets_no_code_of_the_others(
    scene: Scene, evil: Provider, ada: Visitor
) -> None:
    """The mix-up of RFC 9700 section 4.4: Ada begins at the evil provider, consents at acme."""
    trap = f"{scene.base}/oauth/oidc/trap/callback"
    evil.state.clients["app"] = Client(secret=SECRET, redirect_uris=[trap])
    made = await scene.tenant.api.put(
        "/v1/integrations/trap",
        {
            "provider": "oidc",
            "client_id": "app",
            "client_secret": SECRET,
            "variables": {"issuer": evil.base},
        },
    )
    assert made.status == 201, made.body
    begun = await leave(ada, await scene.link(integrations=["trap"]))
    honest = await leave(ada, await scene.link("bob", integrations=["acme"]))
    sent_on = altered(
        honest.location, state=begun.query["state"], code_challenge=begun.query["code_challenge"]
    )
    back = await ada.get(sent_on)
    assert back.location.startswith(scene.callback)
    assert (await ada.follow(back)).title == "That did not work"
    # Nor at the address of the provider at which it began.
    for issuer in (scene.provider.base, None):
        moved = with_pairs(trap, pairs_of(altered(back.location, iss=issuer)))
        assert (await ada.get(moved)).title in ("That did not work", "This link no longer works")
    assert exchanged(evil) == exchanged(scene.provider) == 0
    assert await scene.states() == []


async def test_a_state_is_taken_at_its_own_address_alone_and_not_used_up_elsewhere(
    scene: Scene, ada: Visitor
) -> None:
    for name in ("google", "slack"):
        put = {"provider": name, "client_id": "app", "client_secret": SECRET}
        assert (await scene.tenant.api.put(f"/v1/integrations/{name}", put)).status == 201
    at_google = await leave(ada, await scene.link(integrations=["google"]))
    answer = f"?state={at_google.query['state']}&error=access_denied"
    for elsewhere in (
        "/oauth/slack/callback",
        "/oauth/oidc/acme/callback",
        "/oauth/google/google/callback",
    ):
        assert (await ada.get(scene.base + elsewhere + answer)).title == "That did not work"
    home = await ada.get(f"{scene.base}/oauth/google/callback{answer}")
    assert home.title == "Nothing was connected"
    back = await consent(ada, await scene.link("bob", integrations=["acme"]))
    for elsewhere in (
        "/oauth/oidc/callback",
        "/oauth/oidc/other/callback",
        "/oauth/google/callback",
    ):
        moved = with_pairs(scene.base + elsewhere, pairs_of(back.location))
        assert (await ada.get(moved)).title == "That did not work"
    assert exchanged(scene.provider) == 0
    assert (await ada.follow(back)).title == "Is this you?"


# complete


async def test_only_the_workspaces_own_key_for_that_environment_completes(
    scene: Scene, stranger: Tenant, ada: Visitor
) -> None:
    brought = await bring(scene, ada)
    elsewhere = await brought.complete("ada", api=stranger.api)
    assert elsewhere.status == 404
    missing = await brought.complete("ada", api=stranger.api, session_id="cs_" + "0" * 26)
    assert (missing.status, missing.code) == (elsewhere.status, elsewhere.code)
    staging = await key(scene, "connect", environments=("staging",))
    assert (await brought.complete("ada", api=staging)).status == 404
    minting = await key(scene, "mint", "tokens:read")
    assert (await brought.complete("ada", api=minting)).status == 403
    assert (await brought.complete("ada", api=scene.tenant.api.with_key(None))).status == 401
    assert await scene.states() == ["pending"]
    own = await key(scene, "connect", environments=("production",))
    assert (await brought.complete("ada", api=own)).status == 200
    assert await scene.states() == ["active"]


async def test_a_key_of_one_environment_invites_to_no_other(scene: Scene) -> None:
    staging = await key(scene, "connect", environments=("staging",))
    body = {"user_id": "ada", "environment": "production"}
    assert (await staging.post("/v1/connect-sessions", body)).status == 403
    body["environment"] = "staging"
    assert (await staging.post("/v1/connect-sessions", body)).status == 201
    # Where none is named, it is the key's own.
    made = await staging.post("/v1/connect-sessions", {"user_id": "ada"})
    assert made.status == 201
    session = await scene.tenant.api.get(f"/v1/connect-sessions/{made.json['id']}")
    assert session.json["environment"] == "staging"


async def test_a_code_completes_its_own_session_alone(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    his, hers = await bring(scene, ada), await bring(scene, mallory, "mallory")
    assert (await his.complete("ada", code=hers.code)).status == 404
    assert (await hers.complete("mallory", code=his.code)).status == 404
    for user in ("ADA", "ada ", "ada/..", ""):
        assert (await his.complete(user)).status == 422
    # A wrong user is the end of it: somebody brought another's code.
    assert await scene.states() == []
    assert (await hers.complete("mallory")).status == 200
    assert (await scene.states("mallory")) == ["active"]


async def test_a_browser_cannot_confirm_what_the_platform_was_to_complete(
    scene: Scene, ada: Visitor
) -> None:
    made = await invite(scene.tenant.api, "mallory", return_url=HOME)
    page = await ada.get(made["url"])
    back = await consent(ada, made["url"])
    home = await ada.follow(back)
    for token in (page.fields["_csrf"], "", "0" * 64, home.query["code"]):
        forged = {"_csrf": token, "_state": back.query["state"], "_answer": "yes"}
        shown = await ada.post(f"{scene.base}/oauth/confirm", forged)
        assert shown.title == "Please finish where you began"
    assert await scene.states("mallory") == ["pending"]


# Twice, at once, and after the end


async def test_a_form_that_is_sent_twice_at_once_connects_once(scene: Scene, ada: Visitor) -> None:
    confirmation = await arrive(ada, await scene.link())
    answers = await asyncio.gather(*(ada.submit(confirmation, _answer="yes") for _ in range(8)))
    titles = sorted(one.title for one in answers)
    assert titles == ["This is done already"] * 7 + ["Your account is connected"]
    [connection] = (await scene.tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert (connection["state"], connection["generation"]) == ("active", 1)


async def test_yes_and_no_at_once_have_one_outcome(scene: Scene, ada: Visitor) -> None:
    for turn in range(TURNS):
        user = f"user-{turn}"
        confirmation = await arrive(ada, await scene.link(user))
        answers = [ada.submit(confirmation, _answer=word) for word in ("yes", "no") * 3]
        titles = {one.title for one in await asyncio.gather(*answers)}
        was_connected = await scene.states(user) == ["active"]
        assert ("Your account is connected" in titles) == was_connected
        assert ("Nothing was connected" in titles) != was_connected
    events = (await scene.tenant.api.get("/v1/audit-events?limit=100")).json["data"]
    ends = [one for one in events if one["action"] in ("connection.connect", "connect.end")]
    assert len(ends) == TURNS


async def test_a_code_that_several_requests_complete_at_once_completes_once(
    scene: Scene, ada: Visitor
) -> None:
    brought = await bring(scene, ada)
    replies = await asyncio.gather(*(brought.complete("ada") for _ in range(8)))
    assert {one.status for one in replies} <= {200, 404, 409}
    assert [one.status for one in replies].count(200) == 1
    [connection] = (await scene.tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert connection["generation"] == 1


async def test_a_button_that_is_pressed_again_makes_the_first_try_worthless(
    scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    first, second = await consent(ada, link), await consent(ada, link)
    assert (await ada.follow(first)).title == "This link no longer works"
    assert exchanged(scene.provider) == 0
    assert (await ada.follow(second)).title == "Is this you?"


async def test_a_user_who_is_deleted_meanwhile_is_not_connected_after_all(
    scene: Scene, ada: Visitor
) -> None:
    early, late = await scene.link("early"), await scene.link("late")
    back, confirmation = await consent(ada, early), await arrive(ada, late)
    for user in ("early", "late"):
        assert (await scene.tenant.api.delete(f"/v1/users/{user}")).status in (200, 204)
    assert (await ada.follow(back)).title in ("That did not work", "This link no longer works")
    end = await ada.submit(confirmation, _answer="yes")
    assert end.title in ("That did not work", "This link no longer works")
    for user in ("early", "late"):
        assert (await scene.tenant.api.get(f"/v1/users/{user}/connections")).status == 404
    assert (await ada.get(early)).status in (200, 410)
    assert (await connect(ada, await scene.link("late"))).title == "Your account is connected"
