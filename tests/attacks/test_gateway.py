"""Attacks on the gateway: by who holds what, by the path, by headers, and by what comes back."""

import asyncio
import socket
from collections import Counter
from typing import Any

import aiohttp.web
import pytest
from conftest import MakeTenant, Tenant
from support.api import Reply
from support.talking import Stage, Talk

from broker.gateway.limits import Limits
from vault.bearer import generate

WRITING = [{"methods": ["GET", "POST"], "path": "/drafts/**"}]


async def raw(talk: Talk, request_line: bytes, *lines: bytes) -> bytes:
    """Send a request as no client would, and return the whole answer."""
    host, _, port = talk.anyone.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = [request_line, b"Host: x", b"Connection: close", *lines]
    head.append(f"Authorization: Bearer {talk.bearer}".encode())
    writer.write(b"\r\n".join(head) + b"\r\n\r\n")
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


# Who holds what


async def test_no_bearer_but_a_living_one_opens_anything(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    for bearer in (
        generate("grant").reveal(),
        generate("handle").reveal(),
        tenant.key,
        talk.bearer[:-1] + ("0" if talk.bearer[-1] != "0" else "1"),
        talk.bearer.replace("ktg_", "kth_"),
        "x",
    ):
        reply = await talk.call("GET", "acme/me", bearer=bearer)
        assert (reply.status, reply.code) == (401, "unauthenticated")
    assert (await talk.anyone.get("/gateway/acme/me")).status == 401
    assert talk.listens.heard == []


async def test_two_bearers_in_one_request_are_none(stage: Stage) -> None:
    talk = await stage.begin()
    other = {"xi-api-key": generate("grant").reveal()}
    assert (await talk.call("GET", "acme/me", headers=other)).status == 401


async def test_a_handle_taken_from_the_browser_buys_nothing_without_the_runtime_key(
    stage: Stage, make_tenant: MakeTenant
) -> None:
    talk = await stage.begin(delivery="handle")
    other = await make_tenant()
    made = await other.api.post("/v1/keys", {"name": "theirs", "scopes": ["runtime"]})
    keys = (
        None,
        "",
        "x",
        generate("api_key").reveal(),
        talk.bearer,
        made.json["key"],  # of another workspace
        await stage.new_key("mint", "tokens:read", "manage"),  # of another scope
    )
    for key in keys:
        headers = {} if key is None else {"X-Keyturn-Runtime": key}
        for reply in (
            await talk.call("GET", "acme/me", headers=headers),
            await talk.refresh({"integration": "acme"}, headers=headers),
        ):
            assert reply.status in (401, 403), (key, reply.body)
            assert talk.tokens[0].encode() not in reply.body
    assert talk.listens.heard == []


async def test_a_runtime_key_that_was_revoked_opens_no_handle(stage: Stage) -> None:
    talk = await stage.begin(delivery="handle", runtime_key=True)
    assert (await talk.call("GET", "acme/me")).status == 200
    keys = (await talk.api.get("/v1/keys?limit=100")).json["data"]
    [key] = [one["id"] for one in keys if one["scopes"] == ["runtime"]]
    assert (await talk.api.delete(f"/v1/keys/{key}")).status == 204
    assert (await talk.call("GET", "acme/me")).status == 401


async def test_a_grant_reaches_its_own_users_connection_and_no_other(stage: Stage) -> None:
    ada = await stage.begin(user="ada")
    bob = await stage.begin(user="bob")
    for talk in (ada, bob):
        for trick in ("?user_id=ada", "?user_id=bob", "?environment=production"):
            reply = await talk.call("GET", f"acme/me{trick}")
            assert reply.status == 200
    assert [one.token for one in ada.listens.heard] == ada.tokens * 3 + bob.tokens * 3


async def test_a_connection_outside_of_the_profile_is_not_there(stage: Stage) -> None:
    talk = await stage.begin(integrations=("acme", "other"))
    narrow = await stage.begin(integrations=("acme",))
    assert (await talk.call("GET", "other/me")).status == 200
    for name in ("other", "nothing", "ACME", "acme%00", "..", "acme;x"):
        reply = await narrow.call("GET", f"{name}/me")
        assert reply.status in (401, 404), (name, reply.body)


async def test_a_conversation_that_has_ended_opens_nothing(stage: Stage) -> None:
    talk = await stage.begin()
    assert (await talk.call("GET", "acme/me")).status == 200
    ended = await talk.api.post(f"/v1/conversations/{talk.conversation}/end")
    assert ended.status == 200, ended.body
    await _is_dead(talk)


async def test_a_user_who_was_deleted_takes_every_grant_along(stage: Stage) -> None:
    talk = await stage.begin()
    assert (await talk.api.delete("/v1/users/ada")).status == 200
    await _is_dead(talk)


async def test_the_key_that_minted_takes_its_grants_along(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    [first] = (await talk.api.get("/v1/keys")).json["data"]
    another = talk.anyone.with_key(await stage.new_key("manage"))
    assert (await another.delete(f"/v1/keys/{first['id']}")).status == 204
    await _is_dead(talk)


async def _is_dead(talk: Talk) -> None:
    heard = len(talk.listens.heard)
    for reply in (await talk.call("GET", "acme/me"), await talk.refresh({"integration": "acme"})):
        assert (reply.status, reply.code) == (401, "unauthenticated")
    assert len(talk.listens.heard) == heard


# Where it goes

PATHS = [
    b"/gateway/acme/../x",
    b"/gateway/acme/a/../../x",
    b"/gateway/acme/%2e%2e/x",
    b"/gateway/acme/..;/x",
    b"/gateway/acme/a%2fb",
    b"/gateway/acme/a%5cb",
    b"/gateway/acme/a\\b",
    b"/gateway/acme//evil.example/",
    b"/gateway/acme/a//b",
    b"/gateway/acme/%252e%252e/x",
    b"/gateway/acme/%c0%ae%c0%ae/x",
    b"/gateway/acme/%ef%bc%8e%ef%bc%8e/x",
    b"/gateway/acme/a%00b",
    b"/gateway/acme/a%0d%0aHost:%20evil",
    b"/gateway/acme/./x",
    b"/gateway/../gateway/acme/x",
    b"/gateway/acme%2fx",
    b"/%67ateway/acme/x",
    b"//gateway/acme/x",
    b"http://evil.example/gateway/acme/../x",
    b"/gateway/acme/" + b"a" * 3_000,
    b"/gateway/acme/x?_method=DELETE",
    b"/gateway/acme/x?$httpMethod=DELETE",
    b"/gateway/acme/x?" + b"a" * 5_000,
]


@pytest.mark.usefixtures("calm")
async def test_every_trick_with_a_path_is_refused(stage: Stage) -> None:
    talk = await stage.begin()
    for path in PATHS:
        answer = await raw(talk, b"GET " + path + b" HTTP/1.1")
        assert answer.startswith((b"HTTP/1.1 4", b"Invalid HTTP")), (path, answer[:200])
    assert talk.listens.heard == []


async def test_an_absolute_address_or_another_host_leads_nowhere_else(stage: Stage) -> None:
    talk = await stage.begin()
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.settimeout(0)
        there = f"127.0.0.1:{evil.getsockname()[1]}".encode()
        await raw(talk, b"GET http://" + there + b"/gateway/acme/me HTTP/1.1")
        await raw(talk, b"GET /gateway/acme/@" + there + b"/ HTTP/1.1", b"Host: " + there)
        await raw(
            talk, b"GET /gateway/acme/:" + there + b" HTTP/1.1", b"X-Forwarded-Host: " + there
        )
        with pytest.raises(BlockingIOError):
            evil.accept()
    assert all(one.target.startswith("/v1/") for one in talk.listens.heard)
    for one in talk.listens.heard:
        assert one.headers["host"] == talk.listens.base.removeprefix("http://")
        assert "x-forwarded-host" not in one.headers


FORBIDDEN = ["oauth/token", "OAUTH/token", "%6fauth/token/", "oauth;x/token", "token", "revoke",
             "introspect", "register", "$batch", "x/%24batch"]  # fmt: skip


async def test_what_gives_tokens_out_is_never_called(stage: Stage) -> None:
    talk = await stage.begin(allow=[{"methods": ["GET", "POST"], "path": "/**"}])
    for path in FORBIDDEN:
        for method in ("GET", "POST"):
            reply = await talk.call(method, f"acme/{path}")
            assert (reply.status, reply.code) == (403, "forbidden"), path
    assert talk.listens.heard == []


async def test_what_the_profile_does_not_allow_is_not_called(stage: Stage) -> None:
    reading = await stage.begin()
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await reading.call(method, "acme/drafts/1")).status == 403
    writing = await stage.begin(allow=WRITING)
    for method, path in (
        ("GET", "me"),
        ("DELETE", "drafts/1"),
        ("POST", "drafts"),
        ("POST", "Drafts/1"),
        ("POST", "drafts%2f1"),
        ("POST", "x/drafts/1"),
    ):
        reply = await writing.call(method, f"acme/{path}")
        assert reply.status in (403, 422), (method, path)
    nothing = await stage.begin(allow=[])
    assert (await nothing.call("GET", "acme/me")).status == 403
    assert writing.listens.heard == []
    assert (await writing.call("POST", "acme/drafts/1")).status == 200


@pytest.mark.parametrize(
    "name",
    ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL",
     "X-Rewrite-URL"],
)  # fmt: skip
async def test_no_header_turns_a_call_into_another(stage: Stage, name: str) -> None:
    talk = await stage.begin()
    assert (await talk.call("GET", "acme/me", headers={name: "DELETE"})).status == 200
    [heard] = talk.listens.heard
    assert name.lower() not in heard.headers


async def test_nothing_that_says_who_calls_goes_on(stage: Stage) -> None:
    talk = await stage.begin(delivery="handle", runtime_key=True)
    given = {
        "Cookie": "session=1",
        "Proxy-Authorization": "Basic eDp5",
        "X-Api-Key": "mine",
        "X-Auth-Token": "mine",
        "X-Forwarded-For": "10.0.0.1",
        "X-Real-IP": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "Referer": "https://app.example/secret",
        "Origin": "https://app.example",
        "X-Hop": "1",
        "Connection": "X-Hop",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Expect": "",
        "X-Kept": "yes",
        "Accept": "application/json",
    }
    assert (await talk.call("GET", "acme/me", headers=given)).status == 200
    [heard] = talk.listens.heard
    assert heard.headers["authorization"] == f"Bearer {talk.tokens[0]}"
    assert heard.headers["x-kept"] == "yes"
    assert heard.headers["accept"] == "application/json"
    expected = {"host", "accept", "accept-encoding", "authorization", "user-agent", "x-kept"}
    assert heard.headers.keys() - {"connection", "content-type"} == expected
    for secret in (talk.bearer, talk.runtime_key or "", "mine", "session"):
        assert secret not in str(heard)


# What comes back


async def test_a_redirect_to_somewhere_else_takes_no_credential_along(stage: Stage) -> None:
    talk = await stage.begin()
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.settimeout(0)
        there = f"http://127.0.0.1:{evil.getsockname()[1]}/steal"
        talk.listens.answers = _redirecting(there)
        reply = await talk.call("GET", "acme/me")
        assert (reply.status, reply.headers["Location"]) == (302, there)
        with pytest.raises(BlockingIOError):
            evil.accept()


def _redirecting(there: str) -> Any:
    async def answer(_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(status=302, headers={"Location": there})

    return answer


@pytest.mark.usefixtures("calm")
async def test_no_refusal_and_no_log_names_a_credential_or_a_query(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = await stage.begin(delivery="handle", runtime_key=True)
    replies: list[Reply] = [
        await talk.call("GET", "acme/me?q=sentinel-query"),
        await talk.call("POST", "acme/me?q=sentinel-query"),
        await talk.call("GET", "acme/a//b?q=sentinel-query"),
        await talk.call("GET", "acme/token?q=sentinel-query"),
        await talk.refresh({"integration": "sentinel-query"}),
    ]
    logged = capsys.readouterr()
    seen = logged.out + logged.err + "".join(str(one.body) for one in replies)
    for secret in ("sentinel-query", talk.tokens[0], talk.bearer, talk.runtime_key or ""):
        assert secret not in seen


async def test_its_use_is_limited_for_each_conversation(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Limits.take
    monkeypatch.setattr(Limits, "take", lambda self, who, _now: take(self, who, 0))  # all at once
    ada = await stage.begin(user="ada")
    bob = await stage.begin(user="bob")
    replies = await asyncio.gather(*(ada.call("GET", "acme/me") for _ in range(120)))
    assert Counter(reply.status for reply in replies) == {200: 60, 429: 60}
    assert (await bob.call("GET", "acme/me")).status == 200
