"""The sandbox as people use it: over HTTP, by its knobs."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from support.api import Api, Reply
from support.jwts import keys, own_jwt
from support.sandbox import Provider, providing

from broker.sandbox import Faults
from vault import oauth
from vault.auth_kinds import Algorithm

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BASIC = "Basic Y2xpZW50OnNlY3JldA=="  # client:secret


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture
async def api(provider: Provider) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Api(session, provider.base)


async def knob(api: Api, method: str, path: str, body: Any = None) -> Reply:
    found = await api.call(method, f"/_sandbox{path}", body=body)
    assert found.status < 300, found.body
    return found


async def trade(api: Api, authorization: str | None = None, **form: str) -> Reply:
    headers = dict(FORM)
    if authorization:
        headers["Authorization"] = authorization
    return await api.post("/oauth/token", raw=urlencode(form).encode(), headers=headers)


@pytest.fixture
async def registered(api: Api) -> None:
    await knob(api, "PUT", "/clients/client", {"secret": "secret", "scopes": ["a", "b"]})


async def token(api: Api, **more: str) -> Reply:
    return await trade(
        api, grant_type="client_credentials", client_id="client", client_secret="secret", **more
    )


async def test_sandboxes_of_one_process_answer_each_for_itself(
    api: Api, provider: Provider
) -> None:
    async with providing() as another:
        places = {"one": provider, "another": another}
        for client, place in places.items():
            place.register(client, secret="secret")
            place.misbehave(Faults(latency=0.1))  # so that all are asked before any has answered
        form = {"grant_type": "client_credentials", "client_secret": "secret"}
        asked = [(place, client) for place in places for client in places]
        answers = await asyncio.gather(
            *(
                trade(api.at(places[place].base), client_id=client, **form)
                for place, client in asked
            )
        )
    assert [one.status for one in answers] == [200, 401, 401, 200]


@pytest.mark.usefixtures("registered")
async def test_a_client_gets_a_token_by_header_or_body_and_it_lives_until_revoked(api: Api) -> None:
    for got in (
        await token(api, scope="a"),
        await trade(api, BASIC, grant_type="client_credentials", scope="a"),
    ):
        assert got.status == 200
        assert got.headers["Cache-Control"] == "no-store"
        assert (got.json["token_type"], got.json["expires_in"]) == ("Bearer", 3600)
        who = await api.with_key(got.json["access_token"]).get("/whoami")
        assert (who.status, who.json) == (200, {"client_id": "client", "scope": "a"})
    await knob(api, "POST", "/revoke")
    dead = await api.with_key(got.json["access_token"]).get("/whoami")
    assert (dead.status, dead.json) == (401, {"error": "invalid_token"})
    assert (await api.with_key("guess").get("/whoami")).status == 401


@pytest.mark.usefixtures("registered")
async def test_every_access_token_can_be_made_to_end_and_those_that_come_later_live(
    api: Api, provider: Provider
) -> None:
    family = provider.state.ledger.open(realm="", client_id="client", account="ada")
    pair = provider.state.ledger.give(family, provider.state.issuing, refresh=True, request=0)
    assert pair.refresh is not None
    await knob(api, "POST", "/expire")
    assert (await api.with_key(pair.access).get("/whoami")).status == 401
    renewed = await trade(api, BASIC, grant_type="refresh_token", refresh_token=pair.refresh)
    assert renewed.status == 200
    assert (await api.with_key(renewed.json["access_token"]).get("/whoami")).status == 200


@pytest.mark.usefixtures("registered")
async def test_what_is_wrong_is_refused_in_the_protocols_words(api: Api) -> None:
    grant = {"grant_type": "client_credentials"}
    for got, status, error in (
        (await trade(api, grant_type="password"), 400, "unsupported_grant_type"),
        (await trade(api), 400, "unsupported_grant_type"),
        (await token(api, scope="a c"), 400, "invalid_scope"),
        (await trade(api, **grant), 401, "invalid_client"),
        (await trade(api, **grant, client_id="client"), 401, "invalid_client"),
        (await trade(api, **grant, client_id="other", client_secret="x"), 401, "invalid_client"),
        (await trade(api, "Basic !", **grant), 401, "invalid_client"),
        (await trade(api, "Bearer x", **grant), 401, "invalid_client"),
        (await trade(api, BASIC, **grant, client_secret="secret"), 400, "invalid_request"),
        (await trade(api, **grant, client_assertion="x"), 400, "invalid_request"),
        (await trade(api, grant_type=oauth.JWT_GRANT, assertion="x"), 400, "invalid_grant"),
    ):
        assert (got.status, got.json) == (status, {"error": error})


def assertion(
    algorithm: Algorithm, private: str, *, at: float | None = None, jti: str = "j", **more: Any
) -> str:
    config = own_jwt(algorithm=algorithm, secret_key=private, issuer="signer", **more)
    now = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return oauth.signed_jwt(config, now=now, jti=jti).reveal()


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "ES384"])
async def test_an_assertion_counts_if_a_registered_key_signed_it_now_and_once(
    api: Api, algorithm: Algorithm
) -> None:
    private, public = keys(algorithm)
    key = {"algorithm": algorithm, "key": public}
    await knob(api, "PUT", "/clients/signer", {"keys": [key]})

    async def outcome(signed: str) -> int:
        return (await trade(api, grant_type=oauth.JWT_GRANT, assertion=signed)).status

    good = assertion(algorithm, private)
    assert await outcome(good) == 200
    assert await outcome(good) == 400  # once
    assert await outcome(assertion(algorithm, private, jti="k", at=time.time() - 7200)) == 400
    assert await outcome(assertion(algorithm, private, jti="l", at=time.time() + 7200)) == 400
    forged = assertion("HS512", "another key altogether", jti="m")
    assert await outcome(forged) == 400
    await knob(api, "DELETE", "/clients/signer")
    assert await outcome(assertion(algorithm, private, jti="n")) == 400


@pytest.mark.usefixtures("registered")
async def test_tokens_are_what_they_were_told_to_be(api: Api) -> None:
    await knob(api, "PUT", "/tokens", {"lifetime": 1})
    began = time.monotonic()
    short = (await token(api)).json["access_token"]
    alive = await api.with_key(short).get("/whoami")
    assert alive.status == 200 or time.monotonic() - began > 1
    await asyncio.sleep(1.1)
    assert (await api.with_key(short).get("/whoami")).status == 401
    await knob(api, "PUT", "/tokens", {"expires_in": "soon", "fields": {"instance_url": "x"}})
    odd = (await token(api)).json
    assert (odd["expires_in"], odd["instance_url"]) == ("soon", "x")
    await knob(api, "PUT", "/tokens", {"expires_in": None})
    assert "expires_in" not in (await token(api)).json


@pytest.mark.usefixtures("registered")
async def test_a_fault_lasts_as_many_requests_as_it_was_told(api: Api) -> None:
    fault = {"status": 503, "body": '{"error":"server_error"}', "retry_after": 7, "times": 2}
    await knob(api, "PUT", "/faults", fault)
    for _ in range(2):
        got = await token(api)
        assert (got.status, got.headers["Retry-After"]) == (503, "7")
        assert got.json == {"error": "server_error"}
    assert (await token(api)).status == 200
    await knob(api, "PUT", "/faults", {"status": 429, "retry_after": "+17"})
    began = int(time.time())
    date = parsedate_to_datetime((await token(api)).headers["Retry-After"])
    assert began + 17 <= date.timestamp() <= time.time() + 17
    await knob(api, "DELETE", "/faults")
    assert (await token(api)).status == 200


@pytest.mark.usefixtures("registered")
async def test_a_connection_is_cut_before_or_after_the_work(api: Api) -> None:
    for when, counted in (("before", 0), ("after", 1)):
        await knob(api, "DELETE", "/requests")
        await knob(api, "PUT", "/faults", {"drop": when})
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await token(api)
        seen = (await api.get("/_sandbox/requests?path=/oauth/token")).json["requests"]
        assert len(seen) == counted


@pytest.mark.usefixtures("registered")
async def test_an_answer_is_cut_short_or_slow_or_huge(api: Api) -> None:
    await knob(api, "PUT", "/faults", {"answer": "truncated"})
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
        await token(api)
    await knob(api, "PUT", "/faults", {"answer": "huge"})
    assert len((await token(api)).body) > 20_000_000
    await knob(api, "PUT", "/faults", {"answer": "slow", "status": 200, "body": "{}"})
    began = time.monotonic()
    assert (await token(api)).body == b"{}"
    assert time.monotonic() - began > 0.2
    await knob(api, "PUT", "/faults", {"latency": 0.3})
    began = time.monotonic()
    assert (await token(api)).status == 200
    assert time.monotonic() - began > 0.3


@pytest.mark.usefixtures("registered")
async def test_the_log_lets_you_compare_and_not_read(api: Api) -> None:
    first = (await token(api, scope="a")).json["access_token"]
    await token(api, scope="a")
    await trade(api, BASIC, grant_type="client_credentials")
    await api.with_key(first).get("/whoami")
    reply = await api.get("/_sandbox/requests")
    for secret in (b'"secret"', first.encode(), b"Y2xpZW50"):
        assert secret not in reply.body
    one, two, three, who = reply.json["requests"]
    assert one["fields"]["scope"] == "a"
    assert one["fields"]["grant_type"] == "client_credentials"
    assert one["fields"]["client_secret"] == two["fields"]["client_secret"]
    assert one["fields"]["client_secret"].startswith("hash:")
    assert three["headers"]["authorization"].startswith("Basic hash:")
    assert (who["method"], who["path"]) == ("GET", "/whoami")


async def test_a_knob_that_is_none_is_refused(api: Api) -> None:
    for path, body in (
        ("/faults", {"latencyy": 1}),
        ("/faults", {"drop": "sometimes"}),
        ("/faults", {"times": 0}),
        ("/tokens", {"lifetime": -1}),
        ("/clients/x", {"password": "x"}),
    ):
        assert (await api.put(f"/_sandbox{path}", body)).status == 400


async def test_it_runs_by_itself_and_stops_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "broker.sandbox", "--port", "0"),
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdout is not None
    async with asyncio.timeout(120):
        line = (await process.stdout.readline()).decode()
        async with aiohttp.ClientSession() as session:
            base = line.split()[-1]
            async with session.get(f"{base}/whoami") as reply:
                assert reply.status == 401
        process.send_signal(signal.SIGTERM)
        await process.wait()
