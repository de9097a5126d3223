"""The modes in which no code is exchanged, against the sandbox's own provider.

The generic providers of the catalogue are used as they are. Of Trello, which speaks OAuth 1.0a, the
addresses are the sandbox's, since a signature is over the address.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from msgspec.structs import replace
from support.dialects import client
from support.engine import CATALOGUE
from support.jwts import keys
from support.loopback import calling
from support.sandbox import Provider as Running
from support.sandbox import providing

from broker.sandbox import Client, ClientKey, Consent
from vault.dialogue import Dialogue
from vault.dialogue.metadata import Metadata
from vault.egress import Egress, Request
from vault.oauth.app import App, TokenSet
from vault.oauth.replies import NoToken
from vault.providers.schema import OAuth1, Token, Variable
from vault.secret import Secret

BACK = "https://keyturn.example/oauth/x/callback"
SCOPES = ("read", "write")


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Running]:
    async with providing() as found:
        yield found


@pytest.fixture
def running(sandbox: Running) -> Running:
    sandbox.state.reset()
    sandbox.state.consent = Consent(auto="allow", device_interval=0)
    return sandbox


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with calling() as found:
        yield found


def now() -> datetime:
    return datetime.now(UTC)


def app_of(name: str, running: Running, **values: str | Secret) -> App:
    return App(
        provider=CATALOGUE.get(name),
        client_id="client",
        client_secrets=(Secret("a secret"),),
        values={"token_url": running.token_url, **values},
        scopes=SCOPES,
        redirect_uri=BACK,
    )


def check(tokens: TokenSet, running: Running) -> None:
    """Is it what the sandbox gave, for as long as that said?"""
    assert tokens.access_token is not None
    found = running.state.alive(tokens.access_token.reveal())
    assert found is not None
    assert found.family.scopes == tokens.scopes == SCOPES
    assert tokens.expires_at is not None
    assert abs(tokens.expires_at - now() - timedelta(hours=1)) < timedelta(minutes=1)


async def test_a_client_gets_tokens_for_itself(running: Running, egress: Egress) -> None:
    running.state.clients["client"] = Client(secret="a secret", scopes=[*SCOPES])
    app, dialogue = app_of("oauth2-client-credentials", running), Dialogue(egress, Metadata(egress))
    first = (await dialogue.client_grant(app, now=now())).tokens
    check(first, running)
    again = await dialogue.refresh(app, first, now=now())
    check(again, running)
    assert again.access_token != first.access_token
    for wrong in (
        replace(app, client_secrets=(Secret("another"),)),
        replace(app, scopes=("all",)),
    ):
        with pytest.raises(NoToken):
            await dialogue.client_grant(wrong, now=now())


async def test_a_signed_assertion_buys_a_token(running: Running, egress: Egress) -> None:
    private, public = keys("RS256")
    running.state.clients["client"] = Client(keys=[ClientKey("RS256", public)])
    app = app_of(
        "jwt-bearer",
        running,
        jwt_issuer="client",
        subject="ada",
        audience=running.token_url,
        private_key_pem=Secret(private),
    )
    dialogue = Dialogue(egress, Metadata(egress))
    check((await dialogue.client_grant(app, now=now())).tokens, running)
    stranger = replace(app, values={**app.values, "jwt_issuer": "another"})
    late = now() - timedelta(hours=1)
    for wrong, when in ((stranger, now()), (app, late)):
        with pytest.raises(NoToken):
            await dialogue.client_grant(wrong, now=when)


async def test_a_device_waits_until_a_person_consents(running: Running, egress: Egress) -> None:
    running.state.clients["client"] = Client()
    running.state.consent = Consent(device_interval=0)
    app = app_of(
        "oauth2-device",
        running,
        device_url=f"{running.base}/oauth/device",
        revoke_url=f"{running.base}/oauth/revoke",
    )
    app = replace(app, client_secrets=())
    dialogue = Dialogue(egress, Metadata(egress))
    started = await dialogue.device_code(app, now=now())
    polled, granted = await dialogue.device_poll(app, started, interval=0, now=now())
    assert (polled.state, granted) == ("waiting", None)
    running.state.consent = Consent(auto="ada", device_interval=0)
    typed = f"user_code={started.user_code}".encode()
    await egress.call("provider", Request(method="POST", url=started.address, body=typed))
    _, granted = await dialogue.device_poll(app, started, interval=0, now=now())
    assert granted is not None
    check(granted.tokens, running)
    after = await dialogue.refresh(app, granted.tokens, now=now())
    check(after, running)
    (said,) = await dialogue.revoke(app, after, now=now())
    assert said.outcome == "revoked"
    assert after.access_token is not None
    assert running.state.alive(after.access_token.reveal()) is None


async def test_oauth1_from_a_temporary_token_to_one_that_lasts(
    running: Running, egress: Egress
) -> None:
    running.state.clients["client"] = client(BACK, "a secret")
    trello = CATALOGUE.get("trello")
    assert trello.authorize is not None
    elsewhere = replace(
        trello,
        identity=None,
        variables={**trello.variables, "place": Variable(filled_by="integration", kind="url")},
        authorize=replace(trello.authorize, url="{place}/authorize"),
        token=Token(url="{place}/access_token"),
        oauth1=OAuth1(request_url="{place}/request_token"),
    )
    place = f"{running.base}/oauth1"
    app = replace(app_of("trello", running, place=place, app_name="Keyturn"), provider=elsewhere)
    dialogue = Dialogue(egress, Metadata(egress))
    pair, url = await dialogue.oauth1_begin(app, now=now())
    assert "expiration=never" in url
    assert "scope=read%2Cwrite" in url
    page = await egress.call("provider", Request(method="GET", url=url))
    back = dict(parse_qsl(urlsplit(page.get("Location") or "").query))
    granted = await dialogue.oauth1_finish(app, pair, callback=back, now=now())
    token = granted.tokens.access_token
    assert token is not None
    held = running.state.held[token.reveal()]
    assert (held.lasting, held.account, held.consumer) == (True, "ada", "client")
    assert granted.tokens.expires_at is None
