"""The stand-in's front: which requests are for it, whose they are, and what they are answered.

* Everything below ``/v1`` and ``/rtc`` is ElevenLabs', whatever prefix stands before: an SDK's
  base URL may carry one.
* ``xi-api-key`` decides the workspace. Without a key only a conversation's token is given out,
  for an agent that is open to all.
* Every answer carries ``x-request-id``, and may be read by pages of any origin: browsers fetch
  tokens of open agents themselves.
"""

import json
import re
import secrets
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from broker.sandbox.elevenlabs import (
    agents,
    calls,
    credentials,
    history,
    sessions,
    values,
    workspace,
)
from broker.sandbox.elevenlabs.account import SECRET, Account, World
from broker.sandbox.elevenlabs.socket import Socket, abort_of
from broker.sandbox.elevenlabs.wire import Answer, Refused, Request, Routes, read_body

ROUTES: Final = Routes(
    agents.ROUTES,
    calls.ROUTES,
    credentials.ROUTES,
    history.ROUTES,
    sessions.ROUTES,
    values.ROUTES,
    workspace.ROUTES,
)
OPEN_ROUTES: Final = Routes(sessions.OPEN_ROUTES)
MAX_NOTED: Final = 100_000  # bytes of a body that the log keeps
SIGNALLING: Final = "/rtc"

FOR_BROWSERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"*"),
    (b"access-control-allow-headers", b"*"),
    (b"access-control-expose-headers", b"x-request-id"),
)

_PLACE = re.compile(r"(?P<prefix>.*?)(?P<path>/(?:v1|rtc)(?:/.*)?)(?!\n)$", re.DOTALL)


def is_ours(path: str) -> bool:
    """Is this one of ElevenLabs' addresses?"""
    return _PLACE.match(path) is not None


async def serve(world: World, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or hold a conversation."""
    if scope["type"] == ScopeType.WEBSOCKET:
        await _hold(world, scope, receive, send)
        return
    request_id = secrets.token_hex(16)
    try:
        request = _request(world, scope, await read_body(receive))
        if request.method == "OPTIONS":  # a browser asks if it may ask
            answer = Answer(status=204)
        else:
            answer = await _answered(world, request)
    except Refused as refused:
        answer = Answer(refused.body(request_id), status=refused.status)
    await _send(send, answer, request_id)


async def _answered(world: World, request: Request) -> Answer:
    body = _json(request.body)
    noted = body if len(request.body) <= MAX_NOTED else f"{len(request.body)} bytes"
    world.note(request.method, request.path, request.query, request.headers, noted)
    seen = json.dumps([request.path, request.query, _without_secrets(body)])
    world.leaks.look("request", seen, ())
    if request.path.startswith(SIGNALLING):
        return await OPEN_ROUTES.find(request)(request)
    handler = ROUTES.find(request)
    request.account = _account(world, request)
    return await handler(request)


async def _hold(world: World, scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == ScopeType.WEBSOCKET
    request = _request(world, scope, b"")
    world.note("WEBSOCKET", request.path, request.query, request.headers, None)
    offered = [*scope["subprotocols"]]
    socket = Socket(world, request, offered, abort_of(scope), receive, send)
    if request.path.startswith(SIGNALLING):
        await socket.signal()
    elif request.path == sessions.CONVERSATION:
        await socket.serve()
    else:
        await socket.refuse(404)


def _request(world: World, scope: Scope, body: bytes) -> Request:
    found = _PLACE.match(scope["path"])
    assert found is not None
    return Request(world, scope, body, found["prefix"], found["path"])


def _account(world: World, request: Request) -> Account:
    key = request.headers.get("xi-api-key")
    if key is not None and (found := world.accounts.get(key)) is not None:
        return found
    if key is None and request.path == sessions.TOKEN:
        for account in world.accounts.values():
            agent = account.agents.get(request.one("agent_id") or "")
            if agent is not None and not agents.needs_key(agent):
                return account
    raise Refused(401, "invalid_api_key", "Invalid API key")


def _json(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    """What the body holds; its text where it is no JSON."""
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def _without_secrets(held: object) -> object:
    """All of a body but the variables that are secret by their name."""
    if isinstance(held, dict):
        return {n: _without_secrets(one) for n, one in held.items() if not n.startswith(SECRET)}
    return [_without_secrets(one) for one in held] if isinstance(held, list) else held


async def _send(send: Send, answer: Answer, request_id: str) -> None:
    body = answer.body
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *FOR_BROWSERS,
    ]
    if body:
        headers.append((b"content-type", answer.content_type.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
