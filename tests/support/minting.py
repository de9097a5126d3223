"""A workspace with an upstream, agents and connected users, ready to mint."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
from conftest import Tenant
from msgspec import Struct

from broker.sandbox import Issuing
from broker.sandbox.elevenlabs.account import FIRST_KEY
from support.api import Api, Reply
from support.connecting import integrate
from support.eleven import AGENT, Eleven
from support.sandbox import Provider

GATEWAY: Final = {"tools": "gateway"}
SEALED: Final = {"runtime": "sealed"}


class Desk(Struct, frozen=True):
    """The platform's side: its workspace, its provider, its account at the stand-in."""

    tenant: Tenant
    api: Api
    provider: Provider
    eleven: Eleven

    # What there is

    async def user(self, user: str = "ada", **profile: Any) -> str:
        reply = await self.api.put(f"/v1/users/{user}", {"name": user.title(), **profile})
        assert reply.status in (200, 201), reply.body
        return user

    async def connect(
        self,
        user: str = "ada",
        integration: str = "google",
        *,
        environment: str = "production",
        expires_in: int | None = 3600,
        scopes: list[str] | None = None,
        refresh: bool = True,
        account: str = "",
    ) -> str:
        """Import what a consent at the sandbox gave; returns the access token."""
        ledger = self.provider.state.ledger
        family = ledger.open(realm="", client_id="app", account=account or user)
        pair = ledger.give(family, self.provider.state.issuing, refresh=True, request=0)
        body: dict[str, Any] = {"access_token": pair.access, "environment": environment}
        if refresh:
            body["refresh_token"] = pair.refresh
        if expires_in is not None:
            body["expires_in"] = expires_in
        if scopes is not None:
            body["scopes"] = scopes
        reply = await self.api.put(f"/v1/users/{user}/connections/{integration}", body)
        assert reply.status in (200, 201), reply.body
        return str(pair.access)

    async def connection(self, user: str = "ada", integration: str = "google") -> Any:
        reply = await self.api.get(f"/v1/users/{user}/connections/{integration}")
        return reply.json

    async def profile(self, agent: str = AGENT, **profile: Any) -> str:
        reply = await self.api.put(f"/v1/agents/{agent}", profile)
        assert reply.status in (200, 201), reply.body
        return agent

    async def key(self, *scopes: str, **more: Any) -> Api:
        """A client with a narrower key."""
        reply = await self.api.post("/v1/keys", {"name": "k", "scopes": list(scopes), **more})
        assert reply.status == 201, reply.body
        return self.api.with_key(reply.json["key"])

    # What is asked for

    async def ask(
        self, user: str = "ada", *, api: Api | None = None, key: str | None = None, **wanted: Any
    ) -> Reply:
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"agent_id": AGENT, "user_id": user, **wanted}
        return await (api or self.api).post("/v1/conversations", body, headers=headers)

    async def mint(self, user: str = "ada", **wanted: Any) -> Any:
        """What is answered to who mints."""
        reply = await self.ask(user, **wanted)
        assert reply.status == 201, reply.body
        assert reply.headers["Cache-Control"] == "no-store"
        return reply.json

    async def refused(self, user: str = "ada", **wanted: Any) -> tuple[int, str]:
        reply = await self.ask(user, **wanted)
        return reply.status, reply.code

    def asked(self, path: str) -> list[dict[str, str]]:
        """What the stand-in was asked at addresses that end so."""
        return [dict(one.query) for one in self.eleven.world.requests if one.path.endswith(path)]

    async def shown(self, conversation: str) -> Any:
        reply = await self.api.get(f"/v1/conversations/{conversation}")
        return reply.json if reply.status == 200 else reply.status

    async def audited(self, action: str) -> list[Any]:
        reply = await self.api.get(f"/v1/audit-events?action={action}")
        found: list[Any] = reply.json["data"]
        return found


@contextlib.asynccontextmanager
async def minting(
    tenant: Tenant, provider: Provider, *, upstream: bool = True
) -> AsyncIterator[Desk]:
    """A desk with the integrations ``google`` and ``slack``."""
    provider.state.issuing = Issuing(rotation="none")
    callback = "http://127.0.0.1/oauth/oidc/callback"
    for name in ("google", "slack"):
        await integrate(tenant.api, provider, callback, name=name)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        desk = Desk(tenant, tenant.api, provider, Eleven(provider, session, FIRST_KEY))
        if upstream:
            await _account(desk)
        try:
            yield desk
        finally:
            # The next sandbox may get this one's port, and then its account would be taken.
            await desk.api.delete("/v1/upstreams/elevenlabs")


async def _account(desk: Desk) -> None:
    await desk.eleven.agent()
    body = {"base_url": desk.provider.base, "api_key": FIRST_KEY}
    reply = await desk.api.put("/v1/upstreams/elevenlabs", body)
    assert reply.status in (200, 201), reply.body
