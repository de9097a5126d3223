"""A conversation under way: a user with a connection at the sandbox, an API that listens, and what
the conversation holds.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp.web
from msgspec import Struct

from support.api import Api, Reply
from support.connecting import integrate
from support.sandbox import Provider

AGENT: Final = "agent_1"
RUNTIME: Final = "X-Keyturn-Runtime"

Handler = Callable[[aiohttp.web.BaseRequest], Awaitable[aiohttp.web.StreamResponse]]


class Heard(Struct, frozen=True):
    """A request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Listens:
    """A provider's API: what it heard, and how it answers."""

    def __init__(self) -> None:
        self.base = ""
        self.heard: list[Heard] = []
        self.refused: set[str] = set()  # tokens that it calls bad
        self.answers: Handler | None = None

    async def handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        heard = Heard(request.method, request.raw_path, headers, await request.content.read())
        self.heard.append(heard)
        if heard.token in self.refused:
            return aiohttp.web.json_response({"error": "expired"}, status=401)
        if self.answers is not None:
            return await self.answers(request)
        return aiohttp.web.json_response({"ok": True})


@asynccontextmanager
async def api_listens() -> AsyncIterator[Listens]:
    """Listen on loopback."""
    found = Listens()
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(found.handle))
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None  # noqa: SLF001 - aiohttp tells nobody else the port
    found.base = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined] # noqa: SLF001 - as above
    try:
        yield found
    finally:
        await runner.cleanup()


class Talk(Struct, frozen=True, kw_only=True):
    """One conversation, and what is around it."""

    api: Api  # of the workspace
    anyone: Api
    provider: Provider
    listens: Listens
    conversation: str
    bearer: str
    runtime_key: str | None
    connection: str
    tokens: list[str]  # given at the sandbox, oldest first

    async def refresh(
        self, body: Any = None, *, raw: bytes | None = None, query: str = "", **more: Any
    ) -> Reply:
        """Call the refresh tool."""
        sent = None if raw is not None else body or {}
        return await self._call("POST", f"/tokens/refresh{query}", body=sent, raw=raw, **more)

    async def call(self, method: str, path: str, **more: Any) -> Reply:
        """Call the gateway; ``path`` begins with the integration."""
        return await self._call(method, f"/gateway/{path}", **more)

    async def invoke(
        self, tool: str, arguments: dict[str, Any] | None = None, *, body: Any = None, **more: Any
    ) -> Reply:
        """Call a tool of the agent's profile by its name; ``body``: another one altogether."""
        named = {"tool": tool, **({"arguments": arguments} if arguments is not None else {})}
        return await self._call("POST", "/v1/tools/invoke", body=body or named, **more)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        runtime_key: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {bearer or self.bearer}", **(headers or {})}
        if key := (self.runtime_key if runtime_key is None else runtime_key):
            sent[RUNTIME] = key
        return await self.anyone.call(method, path, headers=sent, **more)

    async def stored(self) -> dict[str, Any]:
        """What the vault has now."""
        reply = await self.api.post(f"/v1/connections/{self.connection}/token", {})
        found: dict[str, Any] = reply.json
        return found

    async def attempts(self) -> int:
        """Calls of the token endpoint, those that it refused included."""
        reply = await self.api.get(f"/v1/connections/{self.connection}/timeline")
        return len(reply.json["attempts"])

    @property
    def refreshes(self) -> int:
        return len(self.provider.token_calls)


class Stage(Struct, frozen=True, kw_only=True):
    """Where conversations are begun."""

    api: Api
    anyone: Api
    base: str
    provider: Provider
    listens: Listens

    async def begin(
        self,
        *,
        user: str = "ada",
        delivery: str = "inline",
        allow: list[dict[str, Any]] | None = None,
        lasts: int = 3_600,
        integrations: tuple[str, ...] = ("acme",),
        runtime_key: bool = False,
        **profile: Any,
    ) -> Talk:
        """Connect a user, write a profile, and mint. ``lasts``: of the access token."""
        connections, tokens = [], []
        for name in integrations:
            variables = {"issuer": self.provider.base, "api_base_url": f"{self.listens.base}/v1"}
            callback = f"{self.base}/oauth/oidc/{name}/callback"
            await integrate(self.api, self.provider, callback, name=name, variables=variables)
            ledger = self.provider.state.ledger
            family = ledger.open(realm="", client_id="app", account=user)
            issuing = self.provider.state.issuing
            pair = ledger.give(family, issuing, refresh=True, request=0)
            tokens.append(pair.access)
            body = {
                "access_token": pair.access,
                "refresh_token": pair.refresh,
                "expires_in": lasts,
            }
            reply = await self.api.put(f"/v1/users/{user}/connections/{name}", body)
            assert reply.status == 200, reply.body
            connections.append(reply.json["id"])
        needed = [
            {"integration": name, **({"allow": allow} if allow is not None else {})}
            for name in integrations
        ]
        written = {"tools": "gateway", "integrations": needed, "min_ttl": 0, **profile}
        reply = await self.api.put(f"/v1/agents/{AGENT}", written)
        assert reply.status in (200, 201), reply.body
        wanted = {
            "agent_id": AGENT,
            "user_id": user,
            "runtime": "sealed",
            "delivery": delivery,
            "min_ttl": 0,
            "max_wait_ms": 0,
        }
        reply = await self.api.post("/v1/conversations", wanted)
        assert reply.status == 201, reply.body
        given = reply.json["dynamic_variables"]["secret__keyturn_authorization"]
        return Talk(
            api=self.api,
            anyone=self.anyone,
            provider=self.provider,
            listens=self.listens,
            conversation=reply.json["id"],
            bearer=given.removeprefix("Bearer "),
            runtime_key=await self.new_key("runtime") if runtime_key else None,
            connection=connections[0],
            tokens=tokens,
        )

    async def new_key(self, *scopes: str) -> str:
        """A key of the workspace."""
        reply = await self.api.post("/v1/keys", {"name": "made", "scopes": list(scopes)})
        assert reply.status == 201, reply.body
        found: str = reply.json["key"]
        return found


async def a_workspaces_secret(api: Api) -> dict[str, str]:
    """Where a profile's variable comes from that holds a secret of the workspace."""
    secret = {"type": "new", "name": "n", "value": "sentinel"}
    made = (await api.post("/v1/convai/secrets", secret)).json["secret_id"]
    label = {"type": "secret", "label": "k", "values": {"production": {"secret_id": made}}}
    assert (await api.post("/v1/convai/environment-variables", label)).status == 200
    return {"from": "environment", "label": "k"}
