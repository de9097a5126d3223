"""Every frozen dialect is spoken, from consent to revocation, and is strict in every field."""

import base64
import hashlib
import html
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import aiohttp
import pytest
from msgspec.structs import replace
from support.api import Api, Reply
from support.dialects import Recorded, client, recorded
from support.jwts import keys, own_jwt
from support.sandbox import Provider, providing

from broker.sandbox import ClientKey, Dialect, Sandbox
from broker.sandbox.dialect import Endpoint, Shape
from broker.sandbox.knobs import PEOPLE
from broker.sandbox.shapes import Asked, closest, filled
from vault import oauth

BACK: Final = "https://client.example/back"
VERIFIER: Final = "v" * 43
KINDS: Final = {"form": "application/x-www-form-urlencoded", "json": "application/json"}
IDS: Final = sorted(recorded())


def test_there_is_a_dialect_for_every_code_flow_record() -> None:
    assert len(IDS) == 118


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.state.reset()
    return running


class Conversation:
    """A client that sends what the dialect's own shapes say, and nothing of Keyturn's."""

    def __init__(self, provider: Provider, api: Api, one: Recorded) -> None:
        self.one, self.api, self.state = one, api, provider.state
        self.began = len(self.state.history.events())
        private, public = keys("ES256")
        known = client(BACK, "a secret", (ClientKey("ES256", public),))
        public_client = not any("secret" in slot or "basic" in slot for slot in slots_sent(one))
        one.put(provider.state, replace(known, secret=None) if public_client else known)
        apple = own_jwt(
            algorithm="ES256",
            secret_key=private,
            issuer="TEAM",
            subject="client",
            audience="https://appleid.apple.com",
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest())
        self.values: dict[str, Any] = {
            "here": f"{provider.base}/{one.id}",
            "base": provider.base,
            "client_id": "client",
            "client_secret": "a secret",
            "basic": base64.b64encode(b"client:a+secret").decode(),
            "secret_as_user": base64.b64encode(b"a secret:").decode(),
            "signed_secret": oauth.signed_jwt(
                apple, now=datetime.fromtimestamp(time.time(), UTC), jti="1"
            ).reveal(),
            "redirect_uri": BACK,
            "state": "a-state",
            "scope": one.dialect.scope_separator.join(one.scopes),
            "nonce": "a-nonce",
            "challenge": challenge.rstrip(b"=").decode(),
            "verifier": VERIFIER,
            "hint": "access_token",
            "account": "ada",
            "number": "1815",
            "optional_scope": "more",
            **one.more_scopes,
        }

    def endpoints(self, *does: str) -> list[Endpoint]:
        return [found for found in self.one.dialect.endpoints if found.does in does]

    async def send(self, endpoint: Endpoint) -> Reply:
        asked = asked_for(endpoint.request, self.values)
        return await self.api.call(
            asked.method,
            f"/{self.one.id}/{quote(asked.path)}" + (f"?{asked.query}" if asked.query else ""),
            raw=asked.body or None,
            headers={"Content-Type": "", **{n.title(): v for n, v in asked.headers.items()}},
        )

    def learn(self, endpoint: Endpoint, reply: Reply) -> None:
        """Take what the reply's slots hold."""
        assert reply.status == endpoint.status, (reply.status, reply.body, self.reasons())
        learned = dict(read_back(endpoint.reply, reply.json))
        self.values |= {n: v for n, v in learned.items() if n.startswith(("access_", "refresh_t"))}

    def reasons(self) -> list[str]:
        return [why for event in self.state.history.events()[self.began :] for why in event.reasons]

    async def consent(self) -> dict[str, str]:
        """What comes back through the browser."""
        (endpoint,) = self.endpoints("authorize")
        reply = await self.send(endpoint)
        callback = self.one.dialect.callback
        if callback.method == "POST":
            assert f'action="{BACK}"'.encode() in reply.body
            pairs = re.findall(r'name="([^"]+)" value="([^"]*)"', reply.body.decode())
            found = {name: html.unescape(value) for name, value in pairs}
        else:
            assert reply.status == 303, (reply.body, self.reasons())
            address = urlsplit(reply.headers["Location"])
            assert f"{address.scheme}://{address.netloc}{address.path}" == BACK
            found = dict(parse_qsl(address.query))
        self.values["code"] = found[callback.code]
        return found


def slots_sent(one: Recorded) -> set[str]:
    text = json.dumps([str(found.request) for found in one.dialect.endpoints])
    return set(re.findall(r"\{(\w+)\}", text))


def asked_for(shape: Shape, values: Mapping[str, Any]) -> Asked:
    """A request of this shape."""
    body = filled(shape.body, values)
    headers = {name.lower(): str(filled(one, values)) for name, one in shape.headers.items()}
    if shape.format != "none":
        headers["content-type"] = KINDS[shape.format]
    raw = json.dumps(body) if shape.format == "json" else urlencode(body)
    return Asked(
        method=shape.method,
        path=str(filled(shape.path, values)),
        query=urlencode(filled(shape.query, values)),
        headers=headers,
        body=raw.encode() if shape.format != "none" else b"",
        here=str(values["here"]),
    )


def read_back(template: Any, reply: Any) -> Iterator[tuple[str, Any]]:
    """The slots of a template, with what a reply has in their places."""
    if isinstance(template, dict):
        for name, one in template.items():
            if isinstance(reply, dict) and name in reply:
                yield from read_back(one, reply[name])
    elif isinstance(template, list):
        for one, other in zip(template, reply, strict=False):
            yield from read_back(one, other)
    elif isinstance(template, str) and (slot := re.search(r"\{([\w.]+)\}", template)):
        text = reply.rpartition("}")[2] if isinstance(reply, str) else reply
        if isinstance(text, str) and template.startswith("{number}."):
            yield re.findall(r"\{([\w.]+)\}", template)[1], text.partition(".")[2]
        else:
            yield slot[1], text


@pytest.mark.parametrize("name", IDS)
async def test_it_is_spoken_from_consent_to_revocation(name: str, provider: Provider) -> None:
    one = recorded()[name]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        talk = Conversation(provider, Api(session, provider.base), one)
        back = await talk.consent()
        assert back.get("state") == "a-state"
        expected = one.expecting("client", "ada", PEOPLE["ada"])
        for param, value in expected.callback.items():
            assert back[param] == str(value) or value is None

        (exchange,) = talk.endpoints("exchange")
        first = await talk.send(exchange)
        talk.learn(exchange, first)
        assert ("refresh_token" in talk.values) == expected.refresh_token
        assert (await talk.send(exchange)).status >= 200  # a code is good once
        assert "code: used before" in " ".join(talk.reasons()) or "ended" in str(talk.reasons())


@pytest.mark.parametrize("name", IDS)
async def test_what_it_gave_is_read_renewed_and_given_back(name: str, provider: Provider) -> None:
    one = recorded()[name]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        talk = Conversation(provider, Api(session, provider.base), one)
        await talk.consent()
        for endpoint in talk.endpoints("exchange", "refresh", "read", "introspect"):
            if "{token}" in str(endpoint.request):
                talk.values["token"] = talk.values["access_token"]
            reply = await talk.send(endpoint)
            talk.learn(endpoint, reply)
        for endpoint in talk.endpoints("show", "keys"):
            assert (await talk.send(endpoint)).status == 200
        for endpoint in talk.endpoints("revoke"):
            talk.values["token"] = talk.values["access_token"]
            reply = await talk.send(endpoint)
            assert reply.status == 200, talk.reasons()
            for read in talk.endpoints("read"):
                assert (await talk.send(read)).status in (400, 401)
        assert not [why for why in talk.reasons() if "dead" not in why and why != "revoked"]


@pytest.mark.parametrize("name", IDS)
def test_one_field_more_or_less_or_other_is_refused(name: str) -> None:
    dialect = recorded()[name].dialect
    values = {slot: slot for slot in slots_sent(recorded()[name])}
    values |= {"here": "https://s/x", "base": "https://s", "basic": "YTpi", "number": "1"}
    values |= {"client_id": "a", "client_secret": "b"}
    if "secret_as_user" in values:
        values["secret_as_user"] = "Yjo="
    for endpoint in dialect.endpoints:
        right = asked_for(endpoint.request, values)
        assert closest(dialect, right).reasons == []
        for wrong, what in altered(endpoint.request, values):
            match = closest(dialect, wrong)
            assert match.reasons or match.endpoint is not endpoint, what


def altered(shape: Shape, values: Mapping[str, Any]) -> Iterator[tuple[Asked, str]]:
    """Requests that differ from a shape in one thing."""
    for where in ("query", "body"):
        fields = getattr(shape, where)
        for field, value in fields.items():
            less = {name: one for name, one in fields.items() if name != field}
            if field not in shape.optional:
                yield asked_for(replace(shape, **{where: less}), values), f"no {field}"
            renamed = {**less, field + "_": value}
            yield asked_for(replace(shape, **{where: renamed}), values), f"{field} renamed"
            if "{" not in str(value):
                other = {**less, field: str(value) + "x"}
                yield asked_for(replace(shape, **{where: other}), values), f"other {field}"
    for field in shape.headers:
        left = {name: one for name, one in shape.headers.items() if name != field}
        yield asked_for(replace(shape, headers=left), values), f"no {field}"
    if "Authorization" not in shape.headers:
        more = {**shape.headers, "Authorization": "Basic YTpi"}
        yield asked_for(replace(shape, headers=more), values), "Authorization"
    right = asked_for(shape, values)
    for change in (
        {"path": right.path + "/"},
        {"path": right.path.replace(".", "x", 1)},
        {"method": "PATCH"},
        {"query": (right.query + "&more=1").removeprefix("&")},
        {"query": right.query + "&" + right.query} if right.query else {"path": "x"},
    ):
        yield replace(right, **change), str(change)
    if shape.format != "none":
        kind = KINDS["json" if shape.format == "form" else "form"]
        yield replace(right, headers={**right.headers, "content-type": kind}), "format"


def test_a_dialect_that_is_none_is_refused() -> None:
    assert isinstance(recorded()["slack"].dialect, Dialect)
    assert not Sandbox().dialects
