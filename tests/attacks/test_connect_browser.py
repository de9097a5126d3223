"""Hostile pages and sites around a consent: forged forms, frames, cookies, and the way back.

Every form is tried from elsewhere, and every answer is looked at for what a browser would keep,
tell or show to others.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import Tenant
from support.api import Api, Running, running
from support.journey import Scene, arrive, consent, pairs_of
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Consent
from broker.settings import Settings
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.vault import Vault

pytestmark = pytest.mark.usefixtures("calm")

HOME = "http://127.0.0.1:9/back"
APP = "https://app.example.com"
EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}"
STAY = "Please finish where you began"


# Forged forms


CROSS: dict[str, dict[str, str]] = {
    "another origin": {"Origin": "https://evil.example"},
    "a name that begins alike": {"Origin": "http://127.0.0.1.evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "another scheme": {"Origin": "https://127.0.0.1"},
    "an empty origin": {"Origin": ""},
    "another site": {"Sec_Fetch_Site": "cross-site"},
    "a sibling": {"Sec_Fetch_Site": "same-site"},
    "another site without an origin": {"Sec_Fetch_Site": "cross-site", "Origin": "null"},
    "nonsense": {"Sec_Fetch_Site": "same-origin, cross-site"},
}


@pytest.mark.parametrize("headers", CROSS.values(), ids=CROSS)
async def test_a_form_from_another_site_is_refused_even_with_the_right_token(
    headers: dict[str, str], scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    page = await ada.get(link)
    refused = await ada.post(page.action, page.fields, **headers)
    assert (refused.status, refused.title) == (403, STAY)
    assert "Location" not in refused.headers
    confirmation = await arrive(ada, link)
    for action in (confirmation.action, confirmation.action.replace("confirm", "choice")):
        answer = {**confirmation.fields, "_answer": "yes", "_choice": "0"}
        assert (await ada.post(action, answer, **headers)).title == STAY
    assert await scene.states() == ["pending"]


async def test_a_form_without_this_browsers_token_for_this_very_link_is_refused(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    link = await scene.link()
    page, another = await ada.get(link), await ada.get(await scene.link("bob"))
    hers = await mallory.get(link)
    for token in (hers.fields["_csrf"], another.fields["_csrf"], "", "0" * 64, "\u00fc", "x\0"):
        refused = await ada.post(page.action, {"_csrf": token})
        assert (refused.status, refused.title) == (403, STAY)
    assert (await ada.post(page.action, {})).title == STAY
    async with visiting() as nobody:  # the right token, and no cookie
        assert (await nobody.post(page.action, page.fields)).title == STAY
    confirmation = await arrive(ada, link)
    for token in (page.fields["_csrf"], hers.fields["_csrf"], ""):
        answer = {**confirmation.fields, "_csrf": token, "_answer": "yes"}
        assert (await ada.post(confirmation.action, answer)).title == STAY
    assert await scene.states() == ["pending"]


async def test_no_address_that_is_only_opened_begins_or_confirms_anything(
    scene: Scene, anyone: Api, ada: Visitor
) -> None:
    link = await scene.link()
    back = await consent(ada, link)
    path = back.location.removeprefix(scene.base)
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
        reply = await anyone.call(method, path, headers={"Origin": "https://evil.example"})
        assert reply.status in (204, 404, 405), method
        assert not [one for one in reply.headers if one.lower().startswith("access-control")]
    confirmation = await ada.follow(back)
    state, token = confirmation.fields["_state"], confirmation.fields["_csrf"]
    by_get = await ada.get(f"{confirmation.action}?_state={state}&_csrf={token}&_answer=yes")
    assert by_get.status == 405
    in_address = await ada.post(f"{confirmation.action}?_state={state}&_csrf={token}", {})
    assert in_address.title == STAY
    assert await scene.states() == ["pending"]


async def test_an_answer_that_is_posted_from_elsewhere_is_no_more_than_an_address(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    told = dict(pairs_of(back.location))
    more = {"user": "mallory", "_csrf": "x", "_state": "y", "next": "https://evil.example"}
    sent_on = await mallory.post(scene.callback, {**told, **more}, Origin=scene.provider.base)
    assert sent_on.status == 303
    assert sent_on.location.startswith(f"{scene.callback}?")
    assert set(sent_on.query) == set(told)
    assert (await mallory.follow(sent_on)).title == STAY
    assert (await ada.follow(sent_on)).title == "Is this you?"


# What a browser keeps, shows and tells


async def walk(scene: Scene, visitor: Visitor) -> list[Shown]:
    """One of each answer that a person can get."""
    await scene.tenant.api.put("/v1/integrations/typed", {"provider": "api-key", "variables": {}})
    link = await scene.link(integrations=["acme"])
    page = await visitor.get(link)
    offers = await visitor.get(await scene.link("bob", integrations=["acme", "typed"]))
    typed = await visitor.get(await scene.link("bob", integrations=["typed"]))
    away = await visitor.submit(page)
    back = await visitor.follow(away)
    confirmation = await visitor.follow(back)
    home = await arrive(visitor, await scene.link("eve", integrations=["acme"], return_url=HOME))
    return [
        page, offers, typed, away, confirmation, home,
        await visitor.submit(confirmation, _answer="yes"),
        await visitor.follow(back),
        await visitor.get(link),
        await visitor.get(f"{scene.base}/connect/nothing"),
        await visitor.get(f"{scene.callback}?state=x&code=y"),
        await visitor.get(f"{scene.callback}?state=%ff"),
        await visitor.post(page.action, {}),
        await visitor.post(scene.callback, {"state": "x", "code": "y"}),
    ]  # fmt: skip


async def test_no_answer_is_kept_framed_guessed_or_told_of_elsewhere(
    scene: Scene, ada: Visitor
) -> None:
    for shown in await walk(scene, ada):
        assert shown.headers.getall("Cache-Control") == ["no-store"]
        assert set(shown.headers.getall("Referrer-Policy")) == {"no-referrer"}
        assert set(shown.headers.getall("X-Content-Type-Options")) == {"nosniff"}
        assert shown.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert shown.headers["X-Robots-Tag"] == "noindex"
        if shown.status == 303:
            assert shown.text in ("", "null")
            continue
        [policy] = shown.headers.getall("Content-Security-Policy")
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert "script-src" not in rules
        assert "unsafe" not in policy
        assert not re.search(r"<(script|iframe|object|embed|img)\b", shown.text)
        for address in re.findall(r'(?:href|src|action)="([^"]*)"', shown.text):
            assert address.startswith(("/", "#")) or address == "data:,", address


async def test_a_cookie_is_for_us_alone(scene: Scene, ada: Visitor) -> None:
    shown = await ada.get(await scene.link())
    cookies = shown.headers.getall("Set-Cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert parts == {"httponly", "samesite=lax", "path=/", "max-age=3600"}
    again = await ada.get(await scene.link())
    assert not [one for one in again.headers.getall("Set-Cookie") if one.startswith("keyturn=")]


@pytest.mark.parametrize("value", ["", "x", "a" * 42, "a" * 44, "a" * 42 + "%", '"' + "a" * 43])
async def test_a_cookie_that_we_did_not_make_is_replaced(
    value: str, scene: Scene, ada: Visitor
) -> None:
    shown = await ada.get(await scene.link(), Cookie=f"keyturn={value}")
    [cookie] = [one for one in shown.headers.getall("Set-Cookie") if one.startswith("keyturn=")]
    assert re.match(r"keyturn=[A-Za-z0-9_-]{43};", cookie)


@pytest.fixture
async def reached_by_https(
    migrated: Embedded, root_key_file: Path, settings: Settings
) -> AsyncIterator[tuple[Vault, Running]]:
    """Another replica of the same deployment, told that it is reached by https."""
    database = await Database.open(migrated.dsn("keyturn_app"), size=2, statement_cache=100)
    root = open_root_key(root_key_file.as_uri())
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    vault = await Vault.open(database, root, egress=egress, origin="https://vault.example.com")
    async with running(vault, settings) as found:
        yield vault, found
    await vault.close()


async def test_behind_https_a_cookie_is_secure_and_no_sibling_domain_can_set_it(
    scene: Scene, reached_by_https: tuple[Vault, Running], ada: Visitor
) -> None:
    _, service = reached_by_https
    link = service.base + "/connect/" + (await scene.link()).rpartition("/")[2]
    tossed = "a" * 43
    page = await ada.get(link, Cookie=f"keyturn={tossed}; keyturn-link=evil")
    cookies = page.headers.getall("Set-Cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert cookie.startswith(("__Host-keyturn=", "__Host-keyturn-link="))
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert parts == {"httponly", "samesite=lax", "path=/", "max-age=3600", "secure"}
    refused = await ada.post(page.action, page.fields, Cookie=f"keyturn={tossed}")
    assert refused.title == STAY
    own = "; ".join(one.partition(";")[0] for one in cookies)
    for origin in (service.base, "http://vault.example.com", "https://vault.example.com:443"):
        assert (await ada.post(page.action, page.fields, Cookie=own, Origin=origin)).title == STAY
    away = await ada.post(page.action, page.fields, Cookie=own, Origin="https://vault.example.com")
    assert away.status == 303
    assert away.query["redirect_uri"].startswith("https://vault.example.com/oauth/oidc/")


async def test_the_name_by_which_somebody_calls_us_appears_nowhere(
    scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    forged = {
        "Host": "evil.example",
        "X_Forwarded_Host": "evil.example",
        "Forwarded": "host=evil.example",
    }
    page = await ada.get(link, **forged)
    assert "evil.example" not in page.text
    away = await ada.post(link, page.fields, **forged)
    assert away.query["redirect_uri"] == scene.callback
    posted = await ada.post(scene.callback, {"state": "x"}, **forged)
    assert posted.location.startswith(scene.callback)


# O8: the way back


LOOK_ALIKES = [
    "//evil.example/",
    "/\\evil.example/",
    "\\\\evil.example\\",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "https://evil.example/",
    f"{APP}.evil.example/",
    f"{APP}@evil.example/",
    "https://user:password@app.example.com/",
    "https://@app.example.com/",
    "https://evil.example\\@app.example.com/",
    "https://evil.example/\\app.example.com",
    "https://evil.example#@app.example.com/",
    "https://evil.example?@app.example.com/",
    f"{APP}\\.evil.example/",
    f"{APP}%2eevil.example/",
    f"{APP}:443/",
    f"{APP}:8443/",
    f"{APP}:/",
    f"{APP}./",
    "https://APP.example.com/",
    "HTTPS://app.example.com/",
    "http://app.example.com/",
    "https://evil.app.example.com/",
    "https://\u0430pp.example.com/",
    "https://app.example\u3002com/",
    f"{APP}/\r\nX-Injected: 1",
    f"{APP}/\n",
    f"{APP}/\t",
    f" {APP}/",
    f"{APP}/ x",
    f"{APP}/\x00",
    f'{APP}/"><script>',
    f"{APP}/#fragment",
    f"{APP}/\u00fc",
    f"{APP}/\u202e",
    f"{APP}/\u2028",
    f"{APP}/" + "x" * 2_000,
    "http://localhost.evil.example/",
    "http://127.0.0.1.evil.example/",
    "http://127.0.0.1@evil.example/",
    "http://127.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://[::ffff:127.0.0.1].evil.example/",
    "ftp://127.0.0.1/",
    "",
]


async def test_o8_nobody_is_sent_to_an_address_that_only_looks_registered(scene: Scene) -> None:
    put = await scene.tenant.api.put("/v1/settings", {"return_origins": [APP]})
    assert put.status == 200
    for url in LOOK_ALIKES:
        body = {"user_id": "ada", "return_url": url}
        reply = await scene.tenant.api.post("/v1/connect-sessions", body)
        assert reply.status == 422, url
        assert url == "" or url not in reply.body.decode()
    fine = {"user_id": "ada", "return_url": f"{APP}/back?tab=1"}
    assert (await scene.tenant.api.post("/v1/connect-sessions", fine)).status == 201


async def test_o8_the_longest_way_back_that_is_taken_leads_back(scene: Scene, ada: Visitor) -> None:
    await scene.tenant.api.put("/v1/settings", {"return_origins": [APP]})
    url = f"{APP}/" + "x" * (2_000 - len(f"{APP}/"))
    home = await arrive(ada, await scene.link(return_url=url))
    assert home.location.startswith(f"{url}?connect_session=")
    scene.provider.state.consent = Consent(auto="deny")
    back = await consent(ada, await scene.link("bob", return_url=url))
    page = await ada.follow(back)
    assert page.title == "Nothing was connected"
    assert f'href="{url}?connect_session=' in page.text


async def test_o8_what_is_no_origin_cannot_be_registered(tenant: Tenant) -> None:
    for origin in (
        *("*", "null", "https://*", "https://*.example.com", "https://", "//x", "javascript:"),
        *(f"{APP}/", f"{APP}/path", f"{APP}?x", f"{APP}\n", f"{APP}, https://evil.example"),
        *("https://user@app.example.com", f"{APP} evil.example", "https://app.example.com:x"),
    ):
        reply = await tenant.api.put("/v1/settings", {"return_origins": [origin]})
        assert reply.status == 422, origin
    assert (await tenant.api.get("/v1/settings")).json["return_origins"] == []
