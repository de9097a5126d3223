"""A malicious end user, or whoever stands between: the cases O1 to O12, and each further way to
attach an account to somebody whose it is not.

A person's browser is a client with cookies; the service, its database and the provider are real.
After each attack the provider is asked what it gave, and the API what is connected.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from support.connecting import SECRET
from support.journey import (
    Scene,
    altered,
    arrive,
    connect,
    consent,
    leave,
    pairs_of,
    with_pairs,
)
from support.sandbox import Provider, providing
from support.visitor import Shown, Visitor

from broker.sandbox import Client, Faults
from vault.embedded import Embedded

HOME = "http://127.0.0.1:9/back"


@pytest.fixture
async def other_provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


def exchanged(provider: Provider) -> int:
    """How many codes the provider has been asked to exchange."""
    return len(provider.token_calls)


def code_of(home: Shown) -> str:
    assert home.location.startswith(HOME), home.location
    return home.query["code"]


# O1 to O4: the state


async def test_o1_a_state_that_is_replayed_is_refused(scene: Scene, ada: Visitor) -> None:
    back = await consent(ada, await scene.link())
    confirmation = await ada.follow(back)
    assert confirmation.title == "Is this you?"
    again = await ada.follow(back)
    assert again.title != "Is this you?"
    assert exchanged(scene.provider) == 1
    assert (await ada.submit(confirmation, _answer="yes")).title == "Your account is connected"
    fresh = await consent(ada, await scene.link("bob"))
    late = await ada.get(altered(fresh.location, state=back.query["state"]))
    assert late.title == "This is done already"
    assert exchanged(scene.provider) == 1
    assert await scene.states("bob") == []


async def test_o2_a_state_from_another_browser_is_refused(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    assert (await mallory.follow(back)).title == "Please finish where you began"
    await mallory.get(await scene.link("mallory"))  # now mallory's browser has a cookie, too
    assert (await mallory.follow(back)).title == "Please finish where you began"
    assert exchanged(scene.provider) == 0
    assert (await ada.follow(back)).title == "Is this you?"  # and it was not used up


async def test_o2_a_page_that_asks_for_confirmation_is_of_no_use_in_another_browser(
    scene: Scene, ada: Visitor, mallory: Visitor
) -> None:
    confirmation = await arrive(ada, await scene.link())
    await mallory.get(await scene.link("mallory"))
    stolen = await mallory.submit(confirmation, _answer="yes")
    assert stolen.title == "Please finish where you began"
    assert await scene.states() == ["pending"]


async def test_o3_a_state_older_than_ten_minutes_is_refused(
    scene: Scene, ada: Visitor, migrated: Embedded
) -> None:
    early, late = await consent(ada, await scene.link()), await arrive(ada, await scene.link("bob"))
    admin = await asyncpg.connect(migrated.dsn().reveal())
    lives = await admin.fetch(
        "select extract(epoch from expires_at - created_at) from vault.connect_flows "
        "where workspace_id = $1 and status = 'started'",
        scene.tenant.id,
    )
    assert [int(row[0]) for row in lives] == [600]
    await admin.execute(
        "update vault.connect_flows set expires_at = now() where workspace_id = $1", scene.tenant.id
    )
    await admin.close()
    assert (await ada.follow(early)).title == "This link no longer works"
    assert (await ada.submit(late, _answer="yes")).title == "This link no longer works"
    assert exchanged(scene.provider) == 1
    assert await scene.states() == []
    assert "active" not in await scene.states("bob")


async def test_a_link_older_than_its_end_begins_nothing(
    scene: Scene, ada: Visitor, migrated: Embedded
) -> None:
    link = await scene.link()
    page = await ada.get(link)
    admin = await asyncpg.connect(migrated.dsn().reveal())
    await admin.execute(
        "update vault.connect_sessions set expires_at = now() where workspace_id = $1",
        scene.tenant.id,
    )
    await admin.close()
    assert (await ada.submit(page)).title == "This link no longer works"
    assert (await ada.get(link)).title == "This link no longer works"


@pytest.mark.parametrize(
    "bend",
    {
        "no state": lambda pairs: [one for one in pairs if one[0] != "state"],
        "an empty state": lambda pairs: [*(p for p in pairs if p[0] != "state"), ("state", "")],
        "two states": lambda pairs: [*pairs, ("state", "x")],
        "the same state twice": lambda pairs: pairs + [p for p in pairs if p[0] == "state"],
        "two codes": lambda pairs: [*pairs, ("code", "x")],
        "the same code twice": lambda pairs: pairs + [p for p in pairs if p[0] == "code"],
        "no code": lambda pairs: [one for one in pairs if one[0] != "code"],
        "an empty code": lambda pairs: [*(p for p in pairs if p[0] != "code"), ("code", "")],
        "two issuers": lambda pairs: [*pairs, ("iss", "https://evil.example")],
        "a code and an error": lambda pairs: [*pairs, ("error", "access_denied")],
        "a state of another form": lambda pairs: [
            (name, value + "\u00fc\u0000") if name == "state" else (name, value)
            for name, value in pairs
        ],
        "a code beyond all bounds": lambda pairs: [
            (name, value + "x" * 9_000) if name == "code" else (name, value)
            for name, value in pairs
        ],
        "an address beyond all bounds": lambda pairs: [*pairs, ("more", "x" * 30_000)],
        "sixty parameters": lambda pairs: [*pairs, *((f"p{one}", "x") for one in range(60))],
    }.items(),
    ids=lambda pair: pair[0],
)  # fmt: skip
async def test_o4_a_callback_with_a_parameter_too_few_or_too_many_is_refused(
    bend: tuple[str, object], scene: Scene, ada: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    bent = bend[1](pairs_of(back.location))  # type: ignore[operator] # one of the lambdas above
    page = await ada.get(with_pairs(back.location, bent))
    assert page.title in (
        "That did not work",
        "This link no longer works",
        "Nothing was connected",
    )
    assert "Is this you?" not in page.text
    assert exchanged(scene.provider) == 0
    assert await scene.states() == []


async def test_o4_a_callback_with_nothing_or_with_nonsense_is_refused_calmly(
    scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    await ada.get(link)
    for query in (
        "",
        "?",
        "?state",
        "?state=%ff",
        "?state=%00",
        "?state=%ed%a0%80",
        "?%zz=%",
        "?&&",
    ):
        page = await ada.get(scene.callback + query)
        assert page.title == "This link no longer works", query
        assert page.status == 410
    token = link.rpartition("/")[2]
    assert (await ada.get(f"{scene.callback}?state={token}&code=x")).status == 410


# O5 to O7: the protocol


@pytest.mark.parametrize("issuer", ["https://evil.example", "", None, "no address"])
async def test_o5_an_answer_that_names_another_issuer_or_none_is_refused(
    issuer: str | None, scene: Scene, ada: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    assert back.query["iss"] == scene.provider.base
    page = await ada.get(altered(back.location, iss=issuer))
    assert page.title == "That did not work"
    assert exchanged(scene.provider) == 0
    assert await scene.states() == []
    assert (await ada.follow(back)).title == "This link no longer works"  # it was used up


async def put_plain(scene: Scene) -> None:
    """The same app at the same provider, as OAuth 2.0 without OpenID Connect."""
    base, callback = scene.provider.base, f"{scene.base}/oauth/oauth2/acme/callback"
    scene.provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=[callback])
    reply = await scene.tenant.api.put(
        "/v1/integrations/acme",
        {
            "provider": "oauth2",
            "client_id": "app",
            "client_secret": SECRET,
            "scopes": ["email"],
            "variables": {
                "authorize_url": f"{base}/oauth/authorize",
                "token_url": f"{base}/oauth/token",
            },
        },
    )
    assert reply.status == 200, reply.body


@pytest.mark.parametrize("kind", ["oidc", "oauth2"])
async def test_o6_pkce_is_always_sent_and_the_verifier_is_in_no_address(
    kind: str, scene: Scene, ada: Visitor
) -> None:
    if kind == "oauth2":
        await put_plain(scene)
    away = await leave(ada, await scene.link())
    assert away.query["code_challenge_method"] == "S256"
    assert len(away.query["code_challenge"]) == 43
    back = await ada.follow(away)
    assert (await ada.follow(back)).title == "Is this you?"
    verifier = scene.provider.token_calls[-1].fields["code_verifier"]
    urls = [url for shown in (away, back) for url in (shown.url, shown.location)]
    written = [value for url in urls for _, value in pairs_of(url)]
    assert verifier not in [scene.provider.state.fingerprint(one) for one in written]


async def test_o6_two_tries_share_neither_state_nor_nonce_nor_challenge(
    scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    one, two = (await leave(ada, link)).query, (await leave(ada, link)).query
    for name in ("state", "nonce", "code_challenge"):
        assert one[name] != two[name]
        assert len(one[name]) >= 43


@pytest.mark.parametrize(
    "change",
    [
        ("127.0.0.1", "localhost"),
        ("http://127.0.0.1", "http://127.0.0.2"),
        ("http://", "https://"),
        ("/callback", "/callback/"),
        ("/callback", "/callback/../callback"),
        ("/callback", "/callback?x=1"),
        ("/oauth", "//oauth"),
        ("/acme/", "/ACME/"),
        ("/acme/", "/%61cme/"),
    ],
)
async def test_o7_a_redirect_address_that_was_tampered_with_is_refused(
    change: tuple[str, str], scene: Scene, ada: Visitor
) -> None:
    away = await leave(ada, await scene.link())
    assert away.query["redirect_uri"] == scene.callback
    tampered = scene.callback.replace(*change)
    assert tampered != scene.callback
    page = await ada.get(altered(away.location, redirect_uri=tampered))
    assert page.status == 400
    assert "Location" not in page.headers


async def test_o7_a_code_that_was_given_for_another_address_buys_nothing(
    scene: Scene, ada: Visitor
) -> None:
    elsewhere = f"{scene.base}/elsewhere"
    scene.provider.state.clients["app"] = Client(
        secret=SECRET, redirect_uris=[scene.callback, elsewhere]
    )
    away = await leave(ada, await scene.link())
    stolen = await ada.get(altered(away.location, redirect_uri=elsewhere))
    assert stolen.location.startswith(elsewhere)
    page = await ada.get(with_pairs(scene.callback, pairs_of(stolen.location)))
    assert page.title == "That did not work"
    assert await scene.states() == []


@pytest.mark.parametrize("path", ["/callback/", "/../acme/callback", "/%63allback", "/callback%00"])
async def test_o7_an_answer_at_an_address_that_only_looks_like_ours_does_nothing_else(
    path: str, scene: Scene, ada: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    bent = back.location.replace("/callback", path)
    page = await ada.get(bent)
    assert page.status in (200, 403, 404, 410)
    assert page.title in ("", "Is this you?", "That did not work", "This link no longer works")
    assert "active" not in await scene.states()


async def test_a_workspace_cannot_replace_what_protects_the_flow(
    scene: Scene,
) -> None:
    for name in ("state", "redirect_uri", "code_challenge", "nonce", "response_type", "client_id"):
        reply = await scene.tenant.api.put(
            "/v1/integrations/acme",
            {
                "provider": "oidc",
                "client_id": "app",
                "client_secret": SECRET,
                "variables": {"issuer": scene.provider.base},
                "authorize_params": {name: "mine"},
            },
        )
        assert reply.status == 422, name


# O9 to O12


EVIL_WORDS = "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"


@pytest.mark.parametrize(
    ("error", "title"),
    [
        ("access_denied", "Nothing was connected"),
        ("server_error", "That did not work"),
        (EVIL_WORDS, "That did not work"),
    ],
)
async def test_o9_a_refusal_is_a_calm_page_that_shows_nothing_of_what_was_written(
    error: str, title: str, scene: Scene, ada: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    refusal = altered(
        back.location, code=None, error=error, error_description=EVIL_WORDS, error_uri=EVIL_WORDS
    )
    page = await ada.get(refusal)
    assert page.title == title
    assert page.status == 200
    for told in ("<script", "alert(", "onerror", "{{"):
        assert told not in page.text, told
    assert exchanged(scene.provider) == 0
    assert (await ada.follow(back)).title == "This link no longer works"
    assert await scene.states() == []


async def test_o10_another_account_does_not_take_a_connections_place_unless_it_was_asked_for(
    scene: Scene, ada: Visitor
) -> None:
    assert (await connect(ada, await scene.link(), "ada")).title == "Your account is connected"
    other = await arrive(ada, await scene.link(), "grace")
    assert other.title == "That is another account"
    [before] = (await scene.tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert (before["state"], before["generation"]) == ("active", 1)
    assert (await connect(ada, await scene.link(), "ada")).title == "Your account is connected"
    asked = await connect(ada, await scene.link(replace_account=True), "grace")
    assert asked.title == "Your account is connected"
    [after] = (await scene.tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert (after["id"], after["generation"]) == (before["id"], 3)


@pytest.mark.parametrize(
    "fault",
    [
        Faults(drop="before", times=1),
        Faults(drop="after", times=1),
        Faults(answer="truncated", times=1),
        Faults(status=503, body="no", times=1),
    ],
    ids=["never arrives", "answer lost", "answer cut", "unavailable"],
)
async def test_o11_an_exchange_that_breaks_off_and_is_reloaded_has_one_clear_outcome(
    fault: Faults, scene: Scene, ada: Visitor
) -> None:
    link = await scene.link()
    back = await consent(ada, link)
    scene.provider.misbehave(fault)
    assert (await ada.follow(back)).title == "That did not work"
    assert (await ada.follow(back)).title == "This link no longer works"
    assert await scene.states() == []
    assert exchanged(scene.provider) <= 1  # the code was not tried again
    assert (await connect(ada, link)).title == "Your account is connected"
    assert await scene.states() == ["active"]


async def test_o11_a_reload_while_the_code_is_exchanged_does_not_exchange_it_again(
    scene: Scene, ada: Visitor
) -> None:
    back = await consent(ada, await scene.link())
    scene.provider.misbehave(Faults(hold=3, times=1))
    first = asyncio.create_task(ada.follow(back))
    async with asyncio.timeout(60):
        while not exchanged(scene.provider):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert (await ada.follow(back)).title == "This is done already"
    assert (await first).title == "Is this you?"
    assert exchanged(scene.provider) == 1


async def test_o12_a_discovery_document_of_another_issuer_is_refused(
    scene: Scene, ada: Visitor, other_provider: Provider
) -> None:
    named = f'"issuer":"{scene.provider.base}"'
    evil = (
        f'{{{named},"authorization_endpoint":"{scene.provider.base}/oauth/authorize",'
        f'"token_endpoint":"{scene.provider.base}/oauth/token","jwks_uri":"{other_provider.base}/"}}'
    )
    other_provider.misbehave(Faults(path="/.well-known", status=200, body=evil))
    await scene.tenant.api.put(
        "/v1/integrations/acme",
        {
            "provider": "oidc",
            "client_id": "app",
            "client_secret": SECRET,
            "variables": {"issuer": other_provider.base},
        },
    )
    page = await ada.submit(await ada.get(await scene.link()))
    assert page.status != 303
    assert "Location" not in page.headers
    assert page.title in ("That did not work", "This cannot be connected now")
