"""A failed call shows nothing of what it carried: not in its text, its causes, or a log line."""

import asyncio
import logging

import pytest
from support.loopback import assert_hides, calling, listening, saying

from vault.egress import Egress, Endpoint, Request, Timeouts
from vault.errors import AnswerTooLarge, EgressDenied, Unreachable, UpstreamFailed, VaultError
from vault.secret import Secret

TABLE = {"private.example.com": ["10.0.0.1"], "api.example.com": ["93.184.216.34"]}


SENTINEL = "sentinel-5f1d"
LONG_TAIL = [b"HTTP/1.1 200 OK\r\nX-%b: a\r\n" % SENTINEL.encode() + b"X: " + b"a" * 9_000]
FAILURES: dict[str, tuple[list[bytes], type[VaultError]]] = {
    "silence": ([], Unreachable),
    "closed": ([b""], Unreachable),
    "cut": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", SENTINEL.encode(), b""],
        Unreachable,
    ),
    "no HTTP": ([b"%b\r\n\r\n" % SENTINEL.encode()], UpstreamFailed),
    "bad length": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % SENTINEL.encode()],
        UpstreamFailed,
    ),
    "long header": (LONG_TAIL, UpstreamFailed),
    "too large": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", SENTINEL.encode()],
        AnswerTooLarge,
    ),
    "encoding": (
        [
            b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: 1\r\n\r\na"
            % SENTINEL.encode()
        ],
        UpstreamFailed,
    ),
    "gzip": (
        [
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 13\r\n\r\n",
            SENTINEL.encode(),
        ],
        UpstreamFailed,
    ),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_shows_nothing_of_the_request_or_the_answer(
    failure: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    pieces, expected = FAILURES[failure]
    async with listening(saying(*pieces)) as server, calling() as egress:
        base = f"http://127.0.0.1:{server.port}"
        # Only what never comes is worth no waiting.
        error = await failing(egress, base, method, caplog, 60 if pieces else 0.5)
    assert type(error) is expected


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://127.0.0.1:1", Unreachable),
        ("http://nowhere.example.com:1", Unreachable),
        ("https://private.example.com", EgressDenied),
        ("http://api.example.com", EgressDenied),
        ("https://api.example.com:22", EgressDenied),
        (f"https://user:{SENTINEL}@api.example.com", EgressDenied),
        ("https://10.0.0.1", EgressDenied),
        ("https://api.example.com:99999", EgressDenied),
        ("https://127.1", EgressDenied),
        ("https://127.0.0.1:7", EgressDenied),
    ],
)
async def test_a_refusal_shows_nothing_of_the_request(
    base: str, expected: type[VaultError], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = [Endpoint("127.0.0.1", 7)]
    async with calling("127.0.0.1,nowhere.example.com:1", TABLE, forbidden=own) as egress:
        error = await failing(egress, base, method, caplog)
    assert type(error) is expected


async def failing(
    egress: Egress,
    base: str,
    method: str,
    caplog: pytest.LogCaptureFixture,
    patience: float = 60,
) -> VaultError:
    """Plant the sentinel wherever a request can hold one, and let the call fail."""
    caplog.set_level(logging.DEBUG)
    request = Request(
        method=method,
        url=f"{base}/hooks/{SENTINEL}?token={SENTINEL}",
        headers=(("Authorization", f"Bearer {SENTINEL}"), ("X-Other", Secret(SENTINEL))),
        body=Secret(SENTINEL) if method == "POST" else None,
        timeout=Timeouts(read=patience, total=patience),
    )
    assert SENTINEL not in repr(request)
    with pytest.raises(VaultError) as caught:
        await egress.call("tool", request)
    await asyncio.sleep(0)
    assert_hides(SENTINEL, caught.value)
    assert SENTINEL not in caplog.text
    return caught.value
