"""What a person does to connect an account, step by step, through pages alone."""

import json
from typing import Any, Final

import asyncpg

from support.api import Api, Reply
from support.connecting import invite
from support.visitor import Shown, Visitor
from vault.embedded import Embedded

BACK: Final = "http://127.0.0.1:9/back?tab=1"  # where nobody listens: nothing has to be there


async def left(visitor: Visitor, session: dict[str, Any], **typed: str) -> Shown:
    """Open a link and press its button; what answers that."""
    return await visitor.submit(await visitor.get(session["url"]), **typed)


async def returned(visitor: Visitor, session: dict[str, Any], **typed: str) -> Shown:
    """Go to the provider, which answers at once, and come back; what is shown then."""
    back = await visitor.follow(await left(visitor, session, **typed))
    return await visitor.follow(back)


async def connected(api: Api, visitor: Visitor, user: str = "ada", **more: Any) -> dict[str, Any]:
    """Connect from the link to the last yes; the connection that is there then."""
    asked = {"integrations": ["acme"], **more}
    asked["confirm"] = "page"
    end = await visitor.submit(
        await returned(visitor, await invite(api, user, **asked)), _answer="yes"
    )
    assert end.status in (200, 303), end.text
    environment = asked.get("environment", "production")
    name = asked["integrations"][0]
    return await connection(api, user, name, environment)


async def connection(
    api: Api, user: str = "ada", name: str = "acme", environment: str = "production"
) -> dict[str, Any]:
    """What is known of one connection."""
    found = await api.get(f"/v1/users/{user}/connections/{name}?environment={environment}")
    assert found.status == 200, found.body
    known: dict[str, Any] = found.json
    return known


async def connections(api: Api, query: str = "") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = made(await api.get(f"/v1/connections{query}"))["data"]
    return listed


def made(reply: Reply) -> Any:
    """The body of an answer that says yes."""
    assert reply.status in (200, 201), reply.body
    return reply.json


def lines(reply: Reply) -> list[dict[str, Any]]:
    """The objects of an answer that has one a line."""
    return [json.loads(line) for line in reply.body.splitlines()]


class Clock:
    """Lets time pass for rows, as the database's superuser, so that nobody waits for it."""

    def __init__(self, postgres: Embedded) -> None:
        self._address = postgres.dsn().reveal()

    async def do(self, statement: str, *arguments: object) -> list[Any]:
        admin = await asyncpg.connect(self._address)
        try:
            found: list[Any] = await admin.fetch(statement, *arguments)
        finally:
            await admin.close()
        return found

    async def leave(self, connection_id: str, *, seconds: int) -> None:
        """Let so much be left of a connection's access token, which was issued an hour ago."""
        await self.do(
            "update vault.connection_lives"
            " set access_ends = now() + $2 * interval '1 second',"
            " issued_at = now() - interval '1 hour' where connection_id = $1",
            connection_id,
            seconds,
        )

    async def end_session(self, session_id: str) -> None:
        await self.do(
            "update vault.connect_sessions set expires_at = now() where session_id = $1", session_id
        )

    async def end_tries(self, session_id: str) -> None:
        await self.do(
            "update vault.connect_flows set expires_at = now() where session_id = $1", session_id
        )

    async def revocations_are_due(self, workspace: str, *, too_late: bool = False) -> int:
        """Make what waits to be given back due, ahead of everybody else's; how many that are."""
        found = await self.do(
            "update vault.revocations set due_at = now() - interval '1 day',"
            " give_up_at = case when $2 then now() else give_up_at end"
            " where workspace_id = $1 returning attempts",
            workspace,
            too_late,
        )
        return len(found)
