"""What a workspace configures, made over HTTP in one line each."""

from collections.abc import Mapping
from typing import Any

from support.api import Api, Reply


class Configured:
    """A client that sets a workspace up, and asks what a configuration becomes."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def secret(self, name: str, value: str, *, allowed_hosts: list[str] | None = None) -> str:
        body = {"type": "new", "name": name, "value": value, "allowed_hosts": allowed_hosts or []}
        return str(_made(await self.api.post("/v1/convai/secrets", body)).json["secret_id"])

    async def strings(self, label: str, values: Mapping[str, str]) -> None:
        await self._variable("string", label, values)

    async def secrets(self, label: str, ids: Mapping[str, str]) -> None:
        values = {environment: {"secret_id": one} for environment, one in ids.items()}
        await self._variable("secret", label, values)

    async def connections(self, label: str, ids: Mapping[str, str]) -> None:
        values = {environment: {"auth_connection_id": one} for environment, one in ids.items()}
        await self._variable("auth_connection", label, values)

    async def connection(self, name: str, **fields: Any) -> str:
        body = {"name": name, "provider": "custom", **fields}
        return str(_made(await self.api.post("/v1/workspace/auth-connections", body)).json["id"])

    async def resolve(self, config: Mapping[str, Any], environment: str = "", **more: Any) -> Reply:
        return await self.api.post("/v1/resolve", _body(config, environment, more))

    async def invoke(self, config: Mapping[str, Any], environment: str = "", **more: Any) -> Reply:
        return await self.api.post("/v1/tools/invoke", _body(config, environment, more))

    async def _variable(self, kind: str, label: str, values: Mapping[str, object]) -> None:
        body = {"type": kind, "label": label, "values": values}
        _made(await self.api.post("/v1/convai/environment-variables", body))


def tool(url: str, **api_schema: Any) -> dict[str, Any]:
    """A webhook tool in ElevenLabs' form."""
    return {
        "type": "webhook",
        "name": "get_orders",
        "description": "Looks orders up.",
        "api_schema": {"url": url, **api_schema},
    }


def _body(config: Mapping[str, Any], environment: str, more: Mapping[str, Any]) -> dict[str, Any]:
    body = {"kind": "server_tool", "config": config, **more}
    return {**body, "environment": environment} if environment else body


def _made(reply: Reply) -> Reply:
    assert reply.status in (200, 201), reply.body
    return reply
