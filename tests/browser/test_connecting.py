"""People connect their accounts in a real browser, from the link to the end, by every way round."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from support.api import Running
from support.browser import DESKTOP, PHONE, Browser, Visitor
from support.connecting import integrate, invite
from support.journeys import BACK, Clock, connection, connections
from support.sandbox import Provider

from broker.sandbox import Consent

OWN_STATUS = re.compile(r"^Failed to load resource: the server responded with a status of \d+")


@pytest.fixture(autouse=True)
async def acme(tenant: Tenant, service: Running, provider: Provider) -> None:
    await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")
    provider.state.consent = Consent()  # people say it themselves


@pytest.fixture
async def person(browser: Browser) -> AsyncIterator[Visitor]:
    visitor = await browser.visitor()
    yield visitor
    await visitor.go_away()


async def looked_at(visitor: Visitor, size: tuple[int, int] = DESKTOP) -> None:
    """Nothing that axe finds, that the console says, or that is wider than the screen."""
    where = await visitor.url()
    assert await visitor.axe() == [], where
    assert await visitor.evaluate("document.documentElement.scrollWidth") <= size[0], where
    said = [one for one in await visitor.complaints() if not OWN_STATUS.match(one)]
    assert said == [], where


async def link(tenant: Tenant, **more: Any) -> str:
    return str((await invite(tenant.api, **more))["url"])


@pytest.mark.parametrize(
    ("size", "light"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["light desktop", "dark phone"]
)
async def test_a_person_connects_and_every_page_can_be_used_by_everybody(
    tenant: Tenant, provider: Provider, browser: Browser, size: tuple[int, int], light: str
) -> None:
    person = await browser.visitor(size=size, dark=light == "dark")
    assert await person.goto(await link(tenant)) == 200
    assert await person.heading() == "Connect Acme"
    await looked_at(person, size)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    is_dark = await person.evaluate(ground) == "rgb(16, 21, 28)"
    assert is_dark is (light == "dark")
    await person.click("Continue to Acme")
    await person.wait_for_url(f"^{provider.base}/oauth/authorize")
    assert await person.heading() == "Allow access?"
    await looked_at(person, size)
    await person.check("Grace Hopper (grace@example.com)")
    await person.click("Allow")
    await person.wait_for_url("/oauth/oidc/acme/callback")
    assert await person.heading() == "Is this you?"
    assert "grace@example.com" in await person.text()
    await looked_at(person, size)
    await person.click("Yes, connect it")
    await person.wait_for_url("/oauth/confirm$")
    assert await person.heading() == "Your account is connected"
    await looked_at(person, size)
    assert (await connection(tenant.api))["account"]["id"] == "grace"
    await person.go_away()


async def test_a_person_says_no_and_then_thinks_again(tenant: Tenant, person: Visitor) -> None:
    await person.goto(await link(tenant))
    await person.click("Continue to Acme")
    await person.click("Deny")
    await person.wait_for_url("/oauth/oidc/acme/callback")
    assert await person.heading() == "Nothing was connected"
    await looked_at(person)
    assert await connections(tenant.api) == []
    await person.click("Try again")
    assert await person.heading() == "Connect Acme"
    await person.click("Continue to Acme")
    await person.click("Allow")
    await person.wait_for_url("/oauth/oidc/acme/callback")
    await person.click("Yes, connect it")
    await person.wait_for_url("/oauth/confirm$")
    assert await person.heading() == "Your account is connected"
    assert (await connection(tenant.api))["state"] == "active"


async def test_a_person_who_is_somebody_else_says_so(tenant: Tenant, person: Visitor) -> None:
    await person.goto(await link(tenant))
    await person.click("Continue to Acme")
    await person.click("Allow")
    await person.wait_for_url("/oauth/oidc/acme/callback")
    await person.click("No, this is not me")
    await person.wait_for_url("/oauth/confirm$")
    assert await person.heading() == "Nothing was connected"
    await looked_at(person)
    assert await connections(tenant.api) == []


async def test_a_link_that_is_too_old_is_replaced_by_a_new_one(
    tenant: Tenant, person: Visitor, clock: Clock
) -> None:
    old = await invite(tenant.api)
    await person.goto(old["url"])
    await clock.end_session(old["id"])
    await person.click("Continue to Acme")
    assert await person.heading() == "This link no longer works"
    await looked_at(person)
    assert await person.goto(old["url"]) == 410
    assert await person.goto(await link(tenant)) == 200
    await person.click("Continue to Acme")
    assert await person.heading() == "Allow access?"


async def tab_to(person: Visitor, name: str) -> None:
    """Press Tab until there; where one is can always be seen."""
    for _ in range(20):
        await person.press("Tab")
        found = await person.focused()
        assert found is not None
        assert found["outlined"], found
        if found["text"].strip().startswith(name):
            return
    raise AssertionError(name)


async def test_the_keyboard_alone_is_enough(tenant: Tenant, person: Visitor) -> None:
    await person.goto(await link(tenant))
    for button, place in (
        ("Continue to Acme", "/oauth/authorize"),
        ("Allow", "/oauth/oidc/acme/callback"),
        ("Yes, connect it", "/oauth/confirm$"),
    ):
        await tab_to(person, button)
        await person.press("Enter")
        await person.wait_for_url(place)
    assert await person.heading() == "Your account is connected"
    assert (await connection(tenant.api))["state"] == "active"


async def test_nothing_needs_javascript(tenant: Tenant, browser: Browser) -> None:
    person = await browser.visitor(script=False)
    await person.goto(await link(tenant))
    await person.click("Continue to Acme")
    await person.click("Allow")
    await person.wait_for_url("/oauth/oidc/acme/callback")
    await person.click("Yes, connect it")
    await person.wait_for_url("/oauth/confirm$")
    assert await person.heading() == "Your account is connected"
    await person.go_away()


async def test_a_platform_gets_its_people_back(
    tenant: Tenant, provider: Provider, person: Visitor
) -> None:
    """Chromium holds all of these redirects against the policy of the page with the button."""
    provider.state.consent = Consent(auto="allow")
    home = f"{provider.base}/whoami"  # anything that answers stands for the platform
    await person.goto(await link(tenant, return_url=home))
    await person.click("Continue to Acme")
    arrived = await person.wait_for_url("/whoami")
    assert "status=pending" in arrived
    assert "code=" in arrived


async def test_what_is_typed_is_shown_on_no_page(tenant: Tenant, person: Visitor) -> None:
    await tenant.api.put("/v1/integrations/desk", {"provider": "basic"})
    await person.goto(await link(tenant, integrations=["desk"]))
    await looked_at(person)
    await person.fill("User name", "ada:x")
    await person.fill("Password", "sentinel")
    await person.click("Connect Desk")
    assert "colon" in await person.text()
    assert "sentinel" not in await person.html()
    await looked_at(person)
    await person.fill("User name", "ada")
    await person.fill("Password", "sentinel")
    await person.click("Connect Desk")
    assert await person.heading() == "Is this you?"
    assert "sentinel" not in await person.html()
    await looked_at(person)
    await person.click("Yes, connect it")
    await person.wait_for_url("/oauth/confirm$")
    assert (await connection(tenant.api, name="desk"))["state"] == "active"


@pytest.mark.parametrize("end", ["narrower", "wrong account", "already done", "offers", "failed"])
async def test_the_other_ends_can_be_used_by_everybody(
    tenant: Tenant, service: Running, provider: Provider, person: Visitor, end: str
) -> None:
    provider.state.consent = Consent(auto="allow")
    if end == "narrower":
        provider.state.consent = Consent(auto="allow", scopes=["openid"])
    url = await link(tenant)
    await person.goto(url)
    await person.click("Continue to Acme")
    await person.click("Yes, connect it")
    if end == "wrong account":
        provider.state.consent = Consent(auto="grace")
        await person.goto(await link(tenant, return_url=BACK))
        await person.click("Continue to Acme")
    elif end == "already done":
        await person.goto(url)
    elif end == "offers":
        work = f"{service.base}/oauth/oidc/acme_work/callback"
        await integrate(tenant.api, provider, work, name="acme_work")
        await person.goto(await link(tenant))
    elif end == "failed":
        provider.state.clients.clear()
        await person.goto(await link(tenant))
        await person.click("Continue to Acme")
        assert await person.heading() == "This request is not right"  # the provider's own page
    titles = {
        "narrower": "Connected, with less access",
        "wrong account": "That is another account",
        "already done": "This is done already",
    }
    if end in titles:
        assert await person.heading() == titles[end]
    await looked_at(person)
