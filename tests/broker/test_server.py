"""What the server is told: who comes through a proxy is known by what a trusted one says."""

from types import SimpleNamespace
from typing import Any, Final

import pytest
import uvicorn

from broker.api.gate import Gate
from broker.api.raw import RawMint
from broker.api.raw.tokens import RawToken
from broker.app import Service
from broker.metrics import Metrics
from broker.server import configured

NOTHING: Final[Any] = None
SETTINGS: Final[Any] = SimpleNamespace(host="127.0.0.1", port=0, trusted_proxies="10.0.0.0/8")
FORWARDED: Final = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https")]


def told(app: Any) -> uvicorn.Config:
    """What uvicorn is told of this application."""
    metrics = Metrics()
    raw, raw_token = RawMint(NOTHING, NOTHING, NOTHING), RawToken(NOTHING, NOTHING)
    service = Service(app, Gate(metrics), metrics, raw, raw_token, relay=NOTHING)
    return configured(service, SETTINGS)


async def reached(client: str, headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Whom the application takes for the client, and by which scheme."""
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    asked: Any = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "headers": headers,
        "client": (client, 1),
    }
    asgi: Any = told(app).app
    await asgi(asked, NOTHING, NOTHING)
    [scope] = seen
    return scope["client"][0], scope["scheme"]


@pytest.mark.parametrize("proxy", ["10.0.0.1", "10.9.9.9"])
async def test_a_trusted_proxy_is_believed(proxy: str) -> None:
    assert await reached(proxy, FORWARDED) == ("192.0.2.7", "https")
    assert await reached(proxy, []) == (proxy, "http")


async def test_nobody_else_is() -> None:
    assert await reached("198.51.100.1", FORWARDED) == ("198.51.100.1", "http")


def test_uvicorn_believes_nobody_by_itself() -> None:
    assert not told(NOTHING).proxy_headers
