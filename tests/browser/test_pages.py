"""The pages of connecting an account in a real browser: to see, to hear, to type, and to attack."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator

import pytest
from msgspec import structs
from support.browser import DESKTOP, PHONE, Browser, Visitor
from support.connect_pages import PAGES, Shown, asking, showing

from broker.web import connect

# The console mentions a page's own status; the tests know it.
OWN_STATUS = re.compile(r"^Failed to load resource: the server responded with a status of \d+")
BY_TELEGRAM = base64.b64encode(json.dumps({"id": 7, "first_name": "Ада"}).encode()).decode()


@pytest.fixture(scope="session")
async def shown() -> AsyncIterator[Shown]:
    """The pages, on loopback."""
    async with showing() as found:
        yield found


async def complaints(visitor: Visitor) -> list[str]:
    return [one for one in await visitor.complaints() if not OWN_STATUS.match(one)]


@pytest.mark.parametrize(
    ("light", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"]
)
async def test_axe_finds_nothing_the_console_says_nothing_and_nothing_is_wider_than_the_screen(
    browser: Browser, shown: Shown, light: str, size: tuple[int, int]
) -> None:
    visitor = await browser.visitor(dark=light == "dark", size=size)
    for name in PAGES:
        await visitor.goto(shown.url(name))
        assert await visitor.axe() == [], name
        assert await visitor.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert await complaints(visitor) == [], name
    asked = await visitor.requests()
    assert asked
    assert all(one.startswith((f"GET {shown.base}/", "GET data:")) for one in asked)
    await visitor.go_away()


async def test_dark_is_dark(browser: Browser, shown: Shown) -> None:
    grounds = set()
    for dark in (False, True):
        visitor = await browser.visitor(dark=dark)
        await visitor.goto(shown.url("connect"))
        grounds.add(await visitor.evaluate("getComputedStyle(document.body).colorScheme"))
        grounds.add(
            await visitor.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        )
        await visitor.go_away()
    assert {"rgb(243, 245, 248)", "rgb(16, 21, 28)"} <= grounds


async def test_where_motion_is_unwelcome_nothing_moves(browser: Browser, shown: Shown) -> None:
    durations = []
    for still in (False, True):
        visitor = await browser.visitor(still=still)
        await visitor.goto(shown.url("connect"))
        script = "getComputedStyle(document.querySelector('button')).transitionDuration"
        durations.append(await visitor.evaluate(script))
        await visitor.go_away()
    assert durations[0] != "0s"
    assert durations[1] == "0s"


async def tab_to(visitor: Visitor, text: str) -> list[str]:
    """Press Tab until there; what has the focus on the way can always be seen."""
    way: list[str] = []
    for _ in range(30):
        await visitor.press("Tab")
        found = await visitor.focused()
        assert found is not None, way
        assert found["outlined"], found
        way.append(found["text"].strip() or found["name"])
        if way[-1].startswith(text):
            return way
    raise AssertionError(way)


async def test_the_keyboard_reaches_everything_and_the_first_stop_skips(
    browser: Browser, shown: Shown
) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("connect_staging"))
    assert await tab_to(visitor, "Continue to Google") == [
        "Skip to the content",
        "And 3 more",
        "Continue to Google",
    ]
    await visitor.press("Enter")
    await visitor.wait_for_url("/page/end_connected$")
    assert await visitor.heading() == "Your account is connected"
    assert shown.taken.pop() == {"_csrf": "c"}
    await visitor.go_away()


async def test_the_folded_scopes_open_by_keyboard(browser: Browser, shown: Shown) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("connect_staging"))
    assert "a.scope.that.nobody" not in await visitor.text()
    await tab_to(visitor, "And 3 more")
    await visitor.press("Enter")
    assert "a.scope.that.nobody" in await visitor.text()
    await visitor.go_away()


async def test_the_skip_link_leads_to_the_content(browser: Browser, shown: Shown) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("offers"))
    await tab_to(visitor, "Skip")
    await visitor.press("Enter")
    assert (await tab_to(visitor, "Connect"))[0].startswith("Connect")
    await visitor.go_away()


async def test_without_javascript_everything_but_telegram_works(
    browser: Browser, shown: Shown
) -> None:
    visitor = await browser.visitor(script=False)
    await visitor.goto(shown.url("zendesk"))
    await visitor.fill("Subdomain of the account", "acme")
    await visitor.click("Continue to Zendesk")
    await visitor.wait_for_url("/page/end_connected$")
    assert shown.taken.pop() == {"_csrf": "csrf-of-this-page", "subdomain": "acme"}
    await visitor.goto(shown.url("choice"))
    await visitor.check("Acme (test)acme-test.atlassian.net")
    await visitor.click("Connect this one")
    await visitor.wait_for_url("/page/end_connected$")
    assert shown.taken.pop() == {"_csrf": "c", "_choice": "2"}
    await visitor.goto(f"{shown.url('telegram')}#tgAuthResult={BY_TELEGRAM}")
    assert "This one step needs JavaScript" in await visitor.text()
    assert shown.taken == []
    await visitor.go_away()


@pytest.mark.parametrize(("button", "answer"), [("Yes", "yes"), ("No", "no")])
async def test_the_last_look_takes_either_answer(
    browser: Browser, shown: Shown, button: str, answer: str
) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("confirm"))
    await visitor.click(button)
    await visitor.wait_for_url("/page/end_connected$")
    assert shown.taken.pop() == {"_csrf": "c", "_answer": answer}
    await visitor.go_away()


async def test_the_browser_refuses_what_the_pattern_does_not_fit(
    browser: Browser, shown: Shown
) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("zendesk"))
    for wrong in ("", "https://acme.zendesk.com", "Acme", "a b"):
        await visitor.fill("Subdomain of the account", wrong)
        assert await visitor.evaluate("document.forms[0].checkValidity()") is False, wrong
    await visitor.fill("Subdomain of the account", "acme-2")
    assert await visitor.evaluate("document.forms[0].checkValidity()") is True
    assert await complaints(visitor) == []
    await visitor.go_away()


async def test_a_key_of_many_lines_arrives_with_its_lines(browser: Browser, shown: Shown) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("service_account"))
    await visitor.fill("The service account's address", "svc@p.example")
    await visitor.fill("Private key (PEM)", "-----BEGIN\nabc\n-----END")
    await visitor.click("Connect Google service account")
    await visitor.wait_for_url("/page/end_connected$")
    assert shown.taken.pop()["private_key_pem"].split() == ["-----BEGIN", "abc", "-----END"]
    await visitor.go_away()


async def test_telegrams_answer_is_read_posted_and_gone_from_the_address(
    browser: Browser, shown: Shown
) -> None:
    visitor = await browser.visitor()
    await visitor.goto(f"{shown.url('telegram')}#tgAuthResult={BY_TELEGRAM}")
    await visitor.wait_for_url("/page/end_connected$")
    assert shown.taken.pop() == {"_csrf": "c", "state": "s", "tgAuthResult": BY_TELEGRAM}
    assert await complaints(visitor) == []
    await visitor.back()
    assert "tgAuthResult" not in await visitor.url()
    await visitor.go_away()


@pytest.mark.parametrize(
    "fragment", ["", "#tgAuthResult=", "#tgAuthResult=<b>", "#tgAuthResult=a%", "#other=1"]
)
async def test_without_telegrams_answer_nothing_is_posted(
    browser: Browser, shown: Shown, fragment: str
) -> None:
    visitor = await browser.visitor()
    await visitor.goto(shown.url("telegram") + fragment)
    await visitor.wait_for_text("did not send an answer")
    assert await visitor.url() == shown.url("telegram")
    assert shown.taken == []
    await visitor.go_away()


async def test_a_script_that_is_not_ours_does_not_run(browser: Browser, shown: Shown) -> None:
    visitor = await browser.visitor()
    for name in ("telegram", "connect", "end_connected"):
        await visitor.goto(shown.url(name))
        await visitor.complaints()
        await visitor.evaluate(
            "(() => { const one = document.createElement('script');"
            " one.text = 'document.title = 1'; document.body.append(one); })()"
        )
        assert await visitor.title() != "1"
        assert "Content Security Policy" in "".join(await visitor.complaints())
    await visitor.go_away()


async def test_the_device_page_looks_again_by_itself_unless_it_is_paused(
    browser: Browser, shown: Shown
) -> None:
    page = PAGES["device"]
    assert isinstance(page, connect.DevicePage)
    shown.pages["device_fast"] = structs.replace(page, seconds=1, again="/page/device_fast")
    visitor = await browser.visitor(script=False)

    async def looks(name: str) -> int:
        return (await visitor.requests()).count(f"GET {shown.url(name)}")

    await visitor.goto(shown.url("device_fast"))
    seen = 0
    async with asyncio.timeout(60):
        while seen < 3:
            await asyncio.sleep(0.2)
            seen += await looks("device_fast")
    await visitor.go_away()
    visitor = await browser.visitor(script=False)
    await visitor.goto(shown.url("device_paused"))
    await asyncio.sleep(2.6)
    assert await looks("device_paused") == 1
    await visitor.go_away()


async def test_chromium_holds_the_answers_redirects_against_the_forms_policy(
    browser: Browser, shown: Shown
) -> None:
    """Why a page whose button leads to a provider cannot say ``form-action 'self'`` alone."""
    provider = shown.base.replace("127.0.0.1", "localhost")
    behind = shown.base.replace("127.0.0.1", "company.localhost")
    visitor = await browser.visitor()

    async def pressed(page: connect.Page, *hops: str) -> bool:
        shown.pages["leaving"] = page
        shown.answers[:] = hops
        await visitor.goto(shown.url("leaving"))
        await visitor.complaints()
        await visitor.click("Continue to Google")
        await visitor.settle()
        refused = "form-action" in "".join(await visitor.complaints())
        arrived = await visitor.url() == hops[-1]
        assert arrived != refused
        return arrived

    there = f"{provider}/page/end_connected"
    assert not await pressed(asking(leaves_to=()), there)
    assert not await pressed(asking(leaves_to=("https://accounts.example/",)), there)
    assert await pressed(asking(leaves_to=(there,)), there)
    # And why it cannot name the provider alone: a company's own sign-in may stand behind it.
    further = (f"{provider}/hop", f"{behind}/page/end_connected")
    assert not await pressed(asking(leaves_to=(there,)), *further)
    assert await pressed(asking(leaves_to=further), *further)
    shown.answers.clear()
    shown.taken.clear()
    await visitor.go_away()


async def test_a_page_cannot_be_framed(browser: Browser, shown: Shown) -> None:
    visitor = await browser.visitor()
    await visitor.goto(f"{shown.base}/static/pico.min.css")  # a document without a policy
    await visitor.complaints()
    await visitor.evaluate(
        "new Promise((done) => { const one = document.createElement('iframe');"
        f" one.src = '{shown.url('confirm')}'; one.onload = done; document.body.append(one); }})"
    )
    assert "frame-ancestors" in "".join(await visitor.complaints())
    await visitor.go_away()


async def test_visitors_share_no_cookies(browser: Browser, shown: Shown) -> None:
    ada, bob = await browser.visitor(), await browser.visitor()
    for visitor in (ada, bob):
        await visitor.goto(shown.url("connect"))
    await ada.evaluate("document.cookie = 'who=ada'")
    assert [one["name"] for one in await ada.cookies()] == ["who"]
    assert await bob.cookies() == []
    await ada.forget()
    assert await ada.cookies() == []
    await ada.go_away()
    await bob.go_away()
