"""Hostile texts around a consent: markup in every name, and floods and nonsense in every form.

Everything that somebody else chose is markup, and what a page then holds is read as a browser does.
"""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from conftest import Tenant
from support.api import Api, Running
from support.connecting import SECRET
from support.journey import Scene, arrive, connect, leave, set_scene
from support.sandbox import Provider
from support.visitor import Shown, Visitor

from broker.sandbox import Consent, Person
from vault.model import SCOPES, Caller, NewKey
from vault.vault import Vault

pytestmark = pytest.mark.usefixtures("calm")

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}"
STAY = "Please finish where you began"


# What others wrote


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def harmless(shown: Shown) -> Page:
    page = Page(shown.text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base"}
    assert not [one for one in page.attributes if one.startswith("on") or one == "src"]
    assert "49" not in page.words.replace(EVIL, "").partition("give this number")[0]
    return page


async def test_what_a_workspace_a_user_a_scope_and_an_account_are_called_is_text(
    vault: Vault, anyone: Api, service: Running, provider: Provider, ada: Visitor
) -> None:
    made = await vault.create_workspace(
        Caller.operator("tests"), EVIL, first_key=NewKey(name="first", scopes=SCOPES)
    )
    assert made.bearer is not None
    api, key = anyone.with_key(made.bearer.reveal()), made.bearer.reveal()
    caller = await vault.authenticate(key)
    tenant = Tenant(made.workspace.workspace_id, key, api, caller)
    scope = "<b>x</b>" + "<script>alert(1)</script>"
    scene = await set_scene(tenant, service.base, provider, scopes=["openid", "email", scope])
    provider.state.people["eve"] = Person(name=EVIL, email=EVIL, number=1)
    provider.state.consent = Consent(auto="eve", scopes=["openid", "email"])
    user = "ada'$(x)=|!*+"
    link = await scene.link(user)
    asked = harmless(await ada.get(link))
    for told in (EVIL, scope, user):
        assert told in asked.words
    confirmation = await arrive(ada, link)
    assert EVIL in harmless(confirmation).words
    end = await ada.submit(confirmation, _answer="yes")
    assert end.title == "Connected, with less access"
    assert scope in harmless(end).words
    assert EVIL in harmless(await arrive(ada, await scene.link("bob"))).words


@pytest.mark.parametrize(
    "body",
    [
        {"name": "<script>"},
        {"scopes": ["a b"]},
        {"scopes": ["x\r\nX-Injected: 1"]},
        {"variables": {"issuer": "javascript:alert(1)"}},
        {"variables": {"issuer": "http://x/<script>#"}},
        {"redirect_uri": "https://x/\r\nX: y"},
        {"authorize_params": {"<b>": "x"}},
    ],
)
async def test_an_integration_cannot_be_called_or_set_up_so(
    body: dict[str, object], scene: Scene
) -> None:
    name = body.pop("name", "acme")
    usual: dict[str, object] = {"provider": "oidc", "client_id": "app", "client_secret": SECRET}
    usual["variables"] = {"issuer": scene.provider.base}
    reply = await scene.tenant.api.put(f"/v1/integrations/{name}", usual | body)
    assert reply.status == 422


@pytest.mark.parametrize(
    "path",
    [
        "/connect/<script>alert(1)</script>",
        "/connect/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/connect/x/%22%3E%3Cimg%20src=x%3E",
        "/connect/%00%0d%0aX:%20y",
        "/connect/%ff%fe",
        "/connect/" + "x" * 20_000,
        "/connect/x/y/device",
        "/oauth/%3Cscript%3E/callback?state=x",
        "/oauth/oidc/%3Cscript%3E/callback?error=%3Cscript%3E",
        "/oauth/..%2f..%2fetc/callback",
        "/oauth/oidc/acme/callback?error=x&error_description=%3Cscript%3E",
    ],
)
async def test_an_address_that_somebody_made_up_is_not_printed(
    path: str, scene: Scene, ada: Visitor
) -> None:
    shown = await ada.get(scene.base + path)
    assert shown.status in (403, 404, 410)
    harmless(shown)
    assert "alert" not in shown.text.replace('role="alert"', "")
    assert "X" not in shown.headers


# Floods and nonsense


BODIES: dict[str, Callable[[str], bytes]] = {
    "twice the token": lambda csrf: f"_csrf={csrf}&_csrf={csrf}".encode(),
    "a hundred fields": lambda csrf: f"_csrf={csrf}".encode() + b"&a=1" * 100,
    "beyond all bounds": lambda csrf: f"_csrf={csrf}&x=".encode() + b"x" * 100_000,
    "no UTF-8": lambda csrf: f"_csrf={csrf}&x=%ff%fe".encode(),
    "bytes": lambda csrf: f"_csrf={csrf}&x=".encode() + b"\xff\x00",
    "half a character": lambda csrf: f"_csrf={csrf}&x=%ed%a0%80".encode(),
    "JSON": lambda csrf: b'{"_csrf": "' + csrf.encode() + b'"}',
    "cut": lambda csrf: f"_csrf={csrf[:-1]}".encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_form_that_is_no_proper_form_begins_and_confirms_nothing(
    body: Callable[[str], bytes], scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    page = await ada.get(link)
    shown = await ada.post(page.action, body(page.fields["_csrf"]))
    assert "Location" not in shown.headers
    assert shown.status in (403, 410, 413)
    confirmation = await arrive(ada, link)
    state, csrf = confirmation.fields["_state"], confirmation.fields["_csrf"]
    sent = f"_state={state}&_answer=yes&".encode() + body(csrf)
    assert (await ada.post(confirmation.action, sent)).title != "Your account is connected"
    assert await scene.states() == ["pending"]


@pytest.mark.parametrize(
    "body",
    [
        b"state=x&code=" + b"y" * 30_000,
        b"state=x&code=" + b"y" * 100_000,
        b"state=%0d%0aX:%20y&code=z",
        b"state=%ff",
        b"a=1&" * 100,
        b"\xff",
    ],
    ids=["long", "longer", "a line break", "no UTF-8", "many", "bytes"],
)
async def test_an_answer_that_is_posted_in_a_strange_form_is_refused_calmly(
    body: bytes, scene: Scene, ada: Visitor
) -> None:
    for place in (scene.callback, f"{scene.base}/oauth/x%0d%0aX:%20y/callback"):
        shown = await ada.post(place, body)
        assert shown.status in (303, 410, 413)
        assert "X" not in shown.headers
        assert "\n" not in shown.headers.get("Location", "")


async def test_what_was_typed_beyond_all_bounds_is_not_taken(scene: Scene, ada: Visitor) -> None:
    put = await scene.tenant.api.put("/v1/integrations/typed", {"provider": "api-key"})
    assert put.status == 201
    for number, typed in enumerate(("x" * 60_000, "x\r\nX-Injected: 1", "x\0", "\u00fc", "")):
        user = f"user-{number}"
        page = await ada.get(await scene.link(user, integrations=["typed"]))
        shown = await ada.submit(page, api_key=typed)
        assert shown.title not in ("Is this you?", "Your account is connected"), number
        assert typed == "" or typed not in shown.text
        assert await scene.states(user) == []


async def test_a_page_of_a_finished_consent_connects_nothing_more(
    scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    page = await ada.get(link)
    assert (await connect(ada, link)).title == "Your account is connected"
    assert (await ada.submit(page)).title == "This is done already"
    assert (await leave(ada, await scene.link())).status == 303
