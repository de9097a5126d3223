"""Logs: a JSON object a line, and no secret in any, whoever writes it."""

import asyncio
import json
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import aiohttp
import pytest
from support.process import CHECKOUT, PATIENCE, Replica, deployment

from broker.logs import HIDDEN, MAX_TEXT, clean, exception_without_values, redact
from vault.bearer import PREFIXES, generate
from vault.errors import Conflict
from vault.secret import Secret

CANARY = "canary-7Q"
UPGRADE = (
    "GET {} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def redacted(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "authorization",
            "Authorization",
            "proxy_authorization",
            "cookie",
            "set-cookie",
            "Cookies",
        ),
        *(
            "password",
            "passwd",
            "db_password",
            "secret",
            "client_secret",
            "secret__user_google_token",
        ),
        *("token", "access_token", "refresh_token", "id_token", "tokens", "api_key", "apikey"),
        *("api-key", "xi-api-key", "credential", "credentials", "code_verifier", "private_key"),
        *("private-key", "code", "state", "bearer", "dsn", "database_url", "owner_database_url"),
    ],
)
def test_what_has_a_telling_name_is_struck_out_however_deep_it_lies(name: str) -> None:
    assert redacted(**{name: CANARY})[name] == HIDDEN
    assert CANARY not in str(redacted(outer={"inner": [{name: CANARY}]}))
    assert CANARY not in str(redacted(outer={name: {"harmless": CANARY}}))


@pytest.mark.parametrize(
    "name",
    ["event", "status", "route", "workspace", "actor", "request_id", "states", "encode", "ms"],
)
def test_what_has_a_harmless_name_stays(name: str) -> None:
    assert redacted(**{name: "plain"})[name] == "plain"


BEARERS = [generate(kind, random=lambda size: b"\x07" * size).reveal() for kind in PREFIXES]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        *((f"got {one}.", one[:4]) for one in BEARERS),
        (f"cut {BEARERS[0][:30]}", "kt_"),
        (f"jwt {JWT}", "eyJ"),
        ("jwe eyJhbGciOiJSU0EifQ.AAA.BBB.CCC.DDD", "eyJ"),
        (f"Authorization: Bearer {CANARY}", CANARY),
        (f"authorization: bearer  {CANARY}", CANARY),
        ("Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        (f"postgresql://app:{CANARY}@db:5432/keyturn", CANARY),
        (f"https://{CANARY}@acme.com/", CANARY),
        (f"GET /oauth/callback?code={CANARY}&state=1 HTTP/1.1", CANARY),
        (f"https://acme.com/cb?{CANARY}#x", CANARY),
    ],
)
def test_what_looks_like_a_secret_is_struck_out_of_running_text(text: str, secret: str) -> None:
    assert secret not in clean(text)
    assert HIDDEN in clean(text)
    assert secret not in str(redacted(event=text))
    assert secret not in str(redacted(event="x", things=[{"a": text}]))


@pytest.mark.parametrize(
    "text",
    [
        "The database is restarting.",
        "applied 0001 house",
        "ws_01k6zj3m8q0v5w7x9y1a2b3c4d key_01k6zj3m8q0v5w7x9y1a2b3c4d",
        "https://acme.com/path",
        "is it ready? yes",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_what_cannot_be_read_as_text_is_hidden_and_depth_and_length_end() -> None:
    assert redacted(a=CANARY.encode(), b=bytearray(b"x")) == {"a": HIDDEN, "b": HIDDEN}
    deep: Any = CANARY
    for _ in range(10):
        deep = {"x": deep}
    assert CANARY not in str(redacted(a=deep))
    assert len(clean("x" * 10_000)) == MAX_TEXT + 3
    assert redacted(a=Secret(CANARY))["a"] == "Secret(***)"
    assert redacted(a=OrderedDict(token=CANARY))["a"] == {"token": HIDDEN}
    assert redacted(a=(1, None, True, 0.5))["a"] == [1, None, True, 0.5]


def event_of(error: BaseException) -> dict[str, Any]:
    try:
        raise error
    except type(error) as caught:
        return dict(exception_without_values(None, "error", {"event": "x", "exc_info": caught}))


def test_an_exception_becomes_its_type_and_its_places() -> None:
    local = CANARY  # a traceback with local variables would show it
    event = event_of(ValueError(local))
    assert event["error"] == "ValueError"
    assert "reason" not in event
    assert event["places"][-1].startswith("broker/test_logs.py:")
    assert CANARY not in str(event)


def test_our_own_errors_keep_their_sentence() -> None:
    assert event_of(Conflict("The present state."))["reason"] == "The present state."


SCRIPT = """
import logging, sys, structlog, warnings
from broker import logs
from vault.secret import Secret
early = structlog.get_logger("keyturn.early")
logs.configure("debug", stream=sys.stdout)
logs.configure("info", stream=sys.stdout)
canary = "canary-7Q"
early.info("early", token=canary, plain="stays")
structlog.get_logger("keyturn.debug").debug("below the level")
log = logging.getLogger("some.library")
log.warning("Bearer %s for %s", canary, "ada")
log.debug("below the level")
log.error("url https://x.y/z?code=%s", canary)
try:
    raise KeyError(canary)
except KeyError as error:
    log.exception("it broke")
    early.error("it broke", exc_info=error)
    early.exception("it broke again")
try:
    try:
        raise ValueError(canary)
    except ValueError as cause:
        raise RuntimeError(canary) from cause
except RuntimeError:
    log.error("chained", exc_info=True)
for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp.access"):
    logging.getLogger(name).info("below the level %s", canary)
    logging.getLogger(name).warning("GET /cb?state=%s", canary)
structlog.contextvars.bind_contextvars(authorization=canary, request_id="req_1")
early.info("bound", key=Secret(canary), odd=object(), bytes=canary.encode(), text="a\\nb")
log.warning("many\\nlines\\u2028here")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """What a process that logs in every way has written."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert CANARY not in done.stdout
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def test_every_line_is_an_object_that_says_what_when_and_who(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert {"event", "level", "logger", "at"} <= line.keys()
        assert line["at"].endswith("Z")


def test_library_loggers_and_ours_go_through_one_chain(lines: list[dict[str, Any]]) -> None:
    loggers = [line["logger"] for line in lines]
    assert loggers.count("some.library") == 5
    assert loggers.count("keyturn.early") == 4
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp.access"):
        assert loggers.count(name) == 1, "a warning comes, an access line does not"
    assert not [line for line in lines if "below the level" in line["event"]]


def test_exceptions_of_every_logger_lose_their_text(lines: list[dict[str, Any]]) -> None:
    broken = [line for line in lines if "error" in line]
    assert [line["error"] for line in broken] == ["KeyError"] * 3 + ["RuntimeError"]
    assert all(line["places"] for line in broken)
    assert not [line for line in lines if {"exc_info", "exception", "exc_text"} & line.keys()]


def test_what_is_bound_to_a_request_is_struck_out_too(lines: list[dict[str, Any]]) -> None:
    [bound] = [line for line in lines if line["event"] == "bound"]
    assert bound["authorization"] == HIDDEN
    assert (bound["request_id"], bound["text"]) == ("req_1", "a\nb")


async def test_a_running_service_writes_nothing_but_such_lines() -> None:
    with deployment() as made:
        replica, key = await made.one_replica(log_level="debug")
        for request in (
            f"GET /v1/users?cursor={CANARY} HTTP/1.1\r\nAuthorization: Bearer {key}\r\n",
            f"GET /oauth/callback?code={CANARY}&state={CANARY} HTTP/1.1\r\n",
            f"PUT /v1/users/{CANARY} HTTP/1.1\r\nxi-api-key: {key}\r\nContent-Length: 2\r\n",
            f"GET /v1/users HTTP/1.1\r\nAuthorization: Bearer {CANARY}\r\n",
            f"nonsense {CANARY}\r\n",
            UPGRADE.format(f"/v1/convai/conversation?conversation_signature={CANARY}"),
            UPGRADE.format(f"/v1/nowhere?conversation_signature={CANARY}"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
            end = "\r\n" if "Upgrade" in request else "Connection: close\r\n\r\n{}"
            writer.write(f"{request}Host: x\r\n{end}".encode())
            await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
        assert await replica.stop() == 0
        found = [json.loads(line) for line in replica.stderr.splitlines()]
        assert [line["status"] for line in found if line.get("route", "").startswith("/v1")]
        loggers = {line["logger"] for line in found}
        assert loggers >= {"keyturn.access", "keyturn.relay", "uvicorn.error"}
        assert CANARY not in replica.stderr + replica.stdout
        assert key not in replica.stderr


async def counted(replica: Replica, line: str) -> None:
    """Wait until a replica's own numbers say so."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        while True:
            async with session.get(replica.base + "/metrics") as reply:
                if line in await reply.text():
                    return
            await asyncio.sleep(0.02)


async def test_a_client_that_hangs_up_is_no_error_of_ours() -> None:
    with deployment() as made:
        replica, key = await made.one_replica()
        _, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        head = f"PUT /v1/users/ada HTTP/1.1\r\nHost: x\r\nxi-api-key: {key}\r\n"
        writer.write(
            f"{head}Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{".encode()
        )
        await writer.drain()
        await counted(replica, "keyturn_http_requests_in_flight 2.0")  # this one, and the look
        writer.close()
        await writer.wait_closed()
        await counted(replica, 'route="/v1/users/{user_id}",status="499"')
        assert await replica.stop() == 0
        found = [json.loads(line) for line in replica.stderr.splitlines()]
        [asked] = [line for line in found if line.get("route") == "/v1/users/{user_id}"]
        assert asked["status"] == 499
        assert "unexpected_error" not in {line["event"] for line in found}


def test_a_level_above_warnings_holds_for_libraries_too() -> None:
    script = """
import logging, sys
from broker import logs
logs.configure("error", stream=sys.stdout)
for name in ("apscheduler.scheduler", "uvicorn.error"):
    logging.getLogger(name).warning("too much to do")
    logging.getLogger(name).error("broken")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("broken") == 2
    assert "too much" not in done.stdout + done.stderr
