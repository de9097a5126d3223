"""What one writes by hand: read a row, open it with Fernet, refresh with authlib, write the row.

No lease, no fence, no journal, no record: two that refresh at once burn the token, and a process
that dies between answer and write has lost it. It is what most code does all the same.

* ``handwritten``: one authlib client for all. ``handwritten, new client``: one a refresh, as in
  authlib's own examples; each reads the certificates of the authorities again.
* The client is what authlib 1.9 takes where it is there: httpx2. (With httpx, which it still takes
  otherwise, a refresh costs more.)
* 8 at a time, at which this client is at its best: its pool is searched from end to end for every
  call.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]
from cryptography.fernet import Fernet

from bench.baselines.handwritten_rows import row_of
from bench.refreshers import CLIENT_ID, CLIENT_SECRET, Refresh, Settings, side_by_side

CONCURRENCY: Final = 8
# Its 5 s are met where others hold the cores: reading certificates stops all eight meanwhile.
SECONDS: Final = 60.0


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Refresh]:
    """Ready to refresh, with one client for all."""
    async with _client() as shared, _refreshing(settings, shared) as refresh:
        yield refresh


@contextlib.asynccontextmanager
async def opened_new_client(settings: Settings) -> AsyncIterator[Refresh]:
    """Ready to refresh, with a client for each refresh."""
    async with _refreshing(settings, None) as refresh:
        yield refresh


@contextlib.asynccontextmanager
async def _refreshing(settings: Settings, shared: Any) -> AsyncIterator[Refresh]:  # noqa: ANN401 - authlib has no types
    fernet = Fernet(settings.fernet_key)
    async with asyncpg.create_pool(settings.dsn, min_size=1, max_size=CONCURRENCY) as pool:

        async def one(name: str) -> None:
            sealed = await pool.fetchval(
                "select sealed from handwritten.connections where id = $1", row_of(name)
            )
            held = msgspec.json.decode(fernet.decrypt(sealed))
            if shared is not None:
                new = await _refreshed(shared, settings, held["refresh_token"])
            else:
                async with _client() as own:
                    new = await _refreshed(own, settings, held["refresh_token"])
            await pool.execute(
                "update handwritten.connections set sealed = $2, expires_at = $3 where id = $1",
                row_of(name),
                fernet.encrypt(msgspec.json.encode(new)),
                datetime.fromtimestamp(new["expires_at"], UTC),
            )

        async def refresh(names: Sequence[str]) -> int:
            await side_by_side(names, one, CONCURRENCY)
            return len(names)

        yield refresh


def _client() -> Any:  # noqa: ANN401 - authlib has no types
    return AsyncOAuth2Client(
        CLIENT_ID,
        CLIENT_SECRET,
        token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a name
        timeout=SECONDS,
    )


async def _refreshed(client: Any, settings: Settings, refresh_token: str) -> dict[str, Any]:  # noqa: ANN401 - authlib has no types
    new = await client.refresh_token(settings.token_url, refresh_token=refresh_token)
    return dict(new)
