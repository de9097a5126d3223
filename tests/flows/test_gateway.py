"""The gateway: a conversation calls its user's API, and never sees the credential."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import aiohttp.web
import pytest
from support.talking import Handler, Stage, Talk

from broker.gateway.calls import KEPT, MAX_UPLOAD
from broker.sandbox import Faults

ANYTHING = [{"methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], "path": "/**"}]


def saying(
    body: bytes = b"", *, status: int = 200, headers: dict[str, str] | None = None
) -> Handler:
    async def answer(_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(status=status, body=body, headers=headers)

    return answer


async def test_a_call_goes_to_the_connections_own_api_with_its_credential(stage: Stage) -> None:
    talk = await stage.begin()
    reply = await talk.call("GET", "acme/calendars/ada%40example.com/events?maxResults=5&q=a%20b")

    assert (reply.status, reply.json) == (200, {"ok": True})
    [heard] = talk.listens.heard
    assert heard.method == "GET"
    assert heard.target == "/v1/calendars/ada@example.com/events?maxResults=5&q=a%20b"
    assert heard.token == talk.tokens[0]
    assert talk.bearer not in str(heard.headers)


async def test_the_answer_is_nobodys_to_keep_or_to_run(stage: Stage) -> None:
    talk = await stage.begin()
    talk.listens.answers = saying(
        b"<script>x</script>",
        headers={
            "Content-Type": "text/html",
            "Cache-Control": "public",
            "Set-Cookie": "a=b",
            "Access-Control-Allow-Origin": "*",
            "Content-Security-Policy": "script-src *",
            "Clear-Site-Data": '"*"',
            "Strict-Transport-Security": "max-age=1",
            "X-Kept": "yes",
            "X-Next-Hop": "no",
            "Connection": "X-Next-Hop",
        },
    )
    reply = await talk.call("GET", "acme/page")

    assert reply.body == b"<script>x</script>"
    assert reply.headers["Content-Type"] == "text/html"
    assert reply.headers["X-Kept"] == "yes"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    for gone in (
        "Set-Cookie",
        "Access-Control-Allow-Origin",
        "Clear-Site-Data",
        "Strict-Transport-Security",
        "X-Next-Hop",
    ):
        assert gone not in reply.headers


@pytest.mark.parametrize("status", [204, 301, 302, 307, 400, 404, 429, 500])
async def test_every_answer_is_the_providers_and_no_redirect_is_followed(
    stage: Stage, status: int
) -> None:
    talk = await stage.begin()
    elsewhere = f"{talk.listens.base}/v1/elsewhere"
    talk.listens.answers = saying(status=status, headers={"Location": elsewhere})
    reply = await talk.call("GET", "acme/x")

    assert reply.status == status
    assert reply.headers["Location"] == elsewhere
    assert len(talk.listens.heard) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("size", [0, 10, KEPT + 1, 3_000_000])
async def test_a_body_goes_on_as_it_came(stage: Stage, method: str, size: int) -> None:
    talk = await stage.begin(allow=ANYTHING)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    content = {"Content-Type": "application/octet-stream"}
    reply = await talk.call(method, "acme/upload", raw=body, headers=content)

    assert reply.status == 200, reply.body
    [heard] = talk.listens.heard
    assert (heard.method, heard.body) == (method, body)
    assert heard.headers["content-length"] == str(size)
    assert heard.headers["content-type"] == "application/octet-stream"


async def test_a_body_of_unknown_length_goes_on_in_pieces(stage: Stage) -> None:
    talk = await stage.begin(allow=ANYTHING)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 50_000

    reply = await talk.call("POST", "acme/upload", raw=pieces())

    assert reply.status == 200, reply.body
    [heard] = talk.listens.heard
    assert heard.body == b"x" * 500_000
    assert heard.headers["transfer-encoding"] == "chunked"


async def test_a_body_over_the_limit_is_refused(stage: Stage) -> None:
    talk = await stage.begin(allow=ANYTHING)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_UPLOAD // 1_000_000 + 2):
            yield b"x" * 1_000_000

    said = await talk.call("POST", "acme/x", raw=b"x" * (MAX_UPLOAD + 1))
    assert (said.status, said.code) == (413, "too_large")
    assert talk.listens.heard == []
    unsaid = await talk.call("POST", "acme/x", raw=pieces())
    assert (unsaid.status, unsaid.code) == (413, "too_large")


async def test_a_large_answer_arrives_whole(stage: Stage) -> None:
    talk = await stage.begin()
    body = bytes(range(256)) * 20_000
    talk.listens.answers = saying(body)
    reply = await talk.call("GET", "acme/file")

    assert reply.body == body
    assert reply.headers["Content-Length"] == str(len(body))


async def test_an_answer_is_passed_on_while_it_comes_in(stage: Stage) -> None:
    talk = await stage.begin()
    go = asyncio.Event()

    async def slowly(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go.wait()
        await response.write(b"data: 2\n\n")
        return response

    talk.listens.answers = slowly
    headers = {"Authorization": f"Bearer {talk.bearer}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{talk.anyone.base}/gateway/acme/events", headers=headers) as answer,
    ):
        first = await asyncio.wait_for(answer.content.readany(), 60)
        assert first == b"data: 1\n\n"
        go.set()
        assert await answer.read() == b"data: 2\n\n"


async def test_an_answer_that_breaks_off_breaks_off(stage: Stage) -> None:
    talk = await stage.begin()

    async def half(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    talk.listens.answers = half
    with pytest.raises(aiohttp.ClientPayloadError):
        await talk.call("GET", "acme/x")


async def test_a_packed_answer_is_unpacked(stage: Stage) -> None:
    talk = await stage.begin()
    packed = gzip.compress(b'{"a": 1}')
    talk.listens.answers = saying(packed, headers={"Content-Encoding": "gzip"})
    reply = await talk.call("GET", "acme/x")

    assert reply.json == {"a": 1}
    assert "Content-Encoding" not in reply.headers


async def test_a_head_has_a_length_and_no_body(stage: Stage) -> None:
    talk = await stage.begin()
    talk.listens.answers = saying(b"12345")
    reply = await talk.call("HEAD", "acme/x")

    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Content-Length"] == "5"


@pytest.mark.parametrize(
    ("method", "raw"), [("GET", None), ("PUT", b"small"), ("DELETE", None), ("HEAD", None)]
)
async def test_a_401_refreshes_and_what_may_be_repeated_is_sent_once_more(
    stage: Stage, method: str, raw: bytes | None
) -> None:
    talk = await stage.begin(allow=ANYTHING)
    talk.listens.refused.add(talk.tokens[0])
    reply = await talk.call(method, "acme/x", raw=raw)

    assert reply.status == 200, reply.body
    first, second = talk.listens.heard
    assert (second.method, second.target, second.body) == (method, first.target, raw or b"")
    assert first.token == talk.tokens[0]
    assert second.token == (await talk.stored())["access_token"] != first.token
    assert talk.refreshes == 1


@pytest.mark.parametrize(
    ("method", "size"),
    [("POST", 10), ("POST", KEPT + 1), ("PATCH", 10), ("PATCH", KEPT + 1), ("PUT", KEPT + 1)],
)
async def test_what_may_not_be_repeated_is_not_and_the_next_call_has_a_new_token(
    stage: Stage, method: str, size: int
) -> None:
    talk = await stage.begin(allow=ANYTHING)
    talk.listens.refused.add(talk.tokens[0])
    reply = await talk.call(method, "acme/x", raw=b"x" * size)

    assert reply.status == 401
    assert reply.json == {"error": "expired"}
    assert len(talk.listens.heard) == 1
    assert talk.refreshes == 1
    assert (await talk.call(method, "acme/x", raw=b"x" * size)).status == 200


@pytest.mark.parametrize(("method", "refreshes"), [("GET", 1), ("POST", 3)])
async def test_an_api_that_says_401_to_whatever_it_is_asked_costs_few_refreshes(
    stage: Stage, method: str, refreshes: int
) -> None:
    talk = await stage.begin(allow=ANYTHING)
    talk.listens.answers = saying(b"{}", status=401)
    for _ in range(6):
        assert (await talk.call(method, "acme/x")).status == 401
    assert talk.refreshes == refreshes


async def test_a_dead_token_endpoint_leaves_the_401_as_it_is(stage: Stage) -> None:
    talk = await stage.begin()
    talk.listens.refused.add(talk.tokens[0])
    talk.provider.misbehave(Faults(status=500))
    reply = await talk.call("GET", "acme/x")

    assert (reply.status, reply.json) == (401, {"error": "expired"})
    assert len(talk.listens.heard) == 1


async def test_an_api_that_is_away_is_said_to_be(stage: Stage) -> None:
    talk = await stage.begin()

    async def gone(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return aiohttp.web.Response()

    talk.listens.answers = gone
    reply = await talk.call("GET", "acme/x")
    assert (reply.status, reply.code) == (502, "upstream_failed")


async def test_a_refresh_and_its_token_are_in_the_record(stage: Stage) -> None:
    talk = await stage.begin()
    await talk.call("GET", "acme/x")
    reply = await talk.api.get("/v1/audit-events?action=connection.token")
    [found] = [one for one in reply.json["data"] if one["actor"]["id"] == talk.conversation][:1]
    assert found["actor"]["kind"] == "grant"
    assert found["target"]["id"] == talk.connection


async def test_a_handle_works_beside_the_runtime_key(stage: Stage) -> None:
    talk = await stage.begin(delivery="handle", runtime_key=True)
    assert talk.bearer.startswith("kth_")
    reply = await talk.call("GET", "acme/me")

    assert reply.status == 200, reply.body
    [heard] = talk.listens.heard
    assert heard.token == talk.tokens[0]
    assert "x-keyturn-runtime" not in heard.headers


async def test_the_bare_integration_is_the_root_of_the_api(stage: Stage) -> None:
    talk = await stage.begin()
    for path in ("acme", "acme/"):
        assert (await talk.call("GET", path)).status == 200
    assert [heard.target for heard in talk.listens.heard] == ["/v1/", "/v1/"]


async def echo(talk: Talk) -> None:
    async def back(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        sent = dict(request.headers.items())
        token = sent["Authorization"].removeprefix("Bearer ")
        return aiohttp.web.Response(
            text=json.dumps({"headers": sent, "again": token * 3}),
            headers={"X-Echo": sent["Authorization"], "Location": f"/?t={token}"},
        )

    talk.listens.answers = back


async def test_an_api_that_echoes_its_request_gives_no_credential_away(stage: Stage) -> None:
    talk = await stage.begin()
    await echo(talk)
    reply = await talk.call("GET", "acme/x")

    assert reply.status == 200
    seen = reply.body.decode() + str(dict(reply.headers))
    assert talk.tokens[0] not in seen
    masked = "*" * len(talk.tokens[0])
    assert reply.json["again"] == masked * 3
    assert reply.headers["Location"] == f"/?t={masked}"
    assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_after_a_retry_neither_token_is_given_away(stage: Stage) -> None:
    talk = await stage.begin()
    old = talk.tokens[0]
    talk.listens.refused.add(old)

    async def both(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(text=f"{old} {request.headers['Authorization']}")

    talk.listens.answers = both
    reply = await talk.call("GET", "acme/x")
    assert reply.status == 200
    assert old.encode() not in reply.body
    assert (await talk.stored())["access_token"].encode() not in reply.body
