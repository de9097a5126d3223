"""The design that everybody writes first, to be tried by what tries ours: select, refresh, update.

* ``python -m support.naive PORT TOKEN_URL`` serves ``POST /v1/connections/{id}/token`` as our
  service does, from one table in the database that ``NAIVE_DATABASE`` names, for as long as it
  lives. Half a second apart it also refreshes what will soon end.
* Whoever finds a token that will not last asks the provider for the next and writes it down. There
  is no lock, no lease and no check that the row is still what it was.
* Used by the fault tests alone. The bearer key is the workspace's name.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import asyncpg
from aiohttp import web

TABLE: Final = """
create table connections (
    connection text primary key,
    workspace text not null,
    access text not null,
    refresh text not null,
    generation integer not null default 1,
    ends_at timestamptz not null
)"""
LEAST_LEFT: Final = timedelta(seconds=2)

_READ: Final = "select * from connections where connection = $1 and workspace = $2"
_ENDING: Final = "select * from connections where ends_at < $1"
_WRITE: Final = """
update connections
   set access = $2, refresh = $3, ends_at = $4, generation = generation + 1
 where connection = $1
returning *"""


class Naive:
    """One process."""

    def __init__(self, token_url: str, pool: Any, session: aiohttp.ClientSession) -> None:
        self._token_url = token_url
        self._pool = pool
        self._session = session

    async def token(self, request: web.Request) -> web.Response:
        workspace = request.headers["Authorization"].removeprefix("Bearer ")
        row = await self._pool.fetchrow(_READ, request.match_info["connection"], workspace)
        if row is None:
            return web.json_response({}, status=404)
        if row["ends_at"] < datetime.now(UTC) + LEAST_LEFT:
            row = await self._refreshed(row) or row
        if row["ends_at"] < datetime.now(UTC):
            return web.json_response({"active": False})
        return web.json_response(
            {
                "active": True,
                "access_token": row["access"],
                "generation": row["generation"],
                "expires_at": row["ends_at"].isoformat(),
            }
        )

    async def refresh(self, request: web.Request) -> web.Response:
        workspace = request.headers["Authorization"].removeprefix("Bearer ")
        row = await self._pool.fetchrow(_READ, request.match_info["connection"], workspace)
        fresh = await self._refreshed(row)
        return web.json_response({}, status=200 if fresh else 503)

    async def sweep(self) -> None:
        while True:
            for row in await self._pool.fetch(_ENDING, datetime.now(UTC) + LEAST_LEFT):
                await self._refreshed(row)
            await asyncio.sleep(0.5)

    async def _refreshed(self, row: Any) -> Any:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": row["refresh"],
            "client_id": row["workspace"],
            "client_secret": os.environ["NAIVE_CLIENT_SECRET"],
        }
        async with self._session.post(self._token_url, data=form) as reply:
            if reply.status != 200:
                return None
            found = await reply.json()
        ends_at = datetime.now(UTC) + timedelta(seconds=found["expires_in"])
        new = found["access_token"], found.get("refresh_token", row["refresh"]), ends_at
        return await self._pool.fetchrow(_WRITE, row["connection"], *new)


async def serve(port: int, token_url: str) -> None:
    """Serve until the process ends."""
    async with (
        asyncpg.create_pool(os.environ["NAIVE_DATABASE"], min_size=1, max_size=5) as pool,
        aiohttp.ClientSession() as session,
    ):
        naive = Naive(token_url, pool, session)
        app = web.Application()
        app.router.add_post("/v1/connections/{connection}/token", naive.token)
        app.router.add_post("/v1/connections/{connection}/refresh", naive.refresh)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await naive.sweep()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
