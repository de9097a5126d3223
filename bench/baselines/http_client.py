"""What the call alone costs with a good client for everything, and nothing else.

One shared ``aiohttp`` session posts the form and decodes the answer. Nothing is looked up, checked,
opened, sealed or stored; the tokens are kept in a dictionary. As many calls are under way as a
sweep of ours has at most. (What we call with ourselves is leaner: ``vault.egress.wire``.)
"""

import contextlib
from collections.abc import AsyncIterator, Sequence

import aiohttp
import msgspec

from bench.baselines.provider import Tokens, tokens
from bench.refreshers import (
    CLIENT_ID,
    CLIENT_SECRET,
    IN_FLIGHT,
    Refresh,
    Settings,
    side_by_side,
)

_decode = msgspec.json.Decoder(Tokens).decode


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Refresh]:
    """Ready to refresh."""
    held = {name: tokens(f"{name}-bare", 0).refresh_token for name in settings.names}
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def one(name: str) -> None:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": held[name],
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
            }
            async with session.post(settings.token_url, data=form) as response:
                response.raise_for_status()
                held[name] = _decode(await response.read()).refresh_token

        async def refresh(names: Sequence[str]) -> int:
            await side_by_side(names, one, IN_FLIGHT)
            return len(names)

        yield refresh
