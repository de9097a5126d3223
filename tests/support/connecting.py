"""A workspace with an integration at a sandbox, ready for people to connect."""

from typing import Any

from broker.sandbox import Client, Consent
from support.api import Api
from support.sandbox import Provider

SECRET = "the-secret-of-the-app"


async def integrate(
    api: Api, provider: Provider, callback: str, *, name: str = "acme", **more: Any
) -> dict[str, Any]:
    """Register an app at the sandbox, and the integration here."""
    provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=[callback])
    provider.state.consent = Consent(auto="allow")
    body = {
        "provider": "oidc",
        "client_id": "app",
        "client_secret": SECRET,
        "scopes": ["openid", "email", "offline_access"],
        "variables": {"issuer": provider.base},
        **more,
    }
    reply = await api.put(f"/v1/integrations/{name}", body)
    assert reply.status in (200, 201), reply.body
    made: dict[str, Any] = reply.json
    return made


async def invite(api: Api, user: str = "ada", **more: Any) -> dict[str, Any]:
    """Make a link."""
    reply = await api.post("/v1/connect-sessions", {"user_id": user, **more})
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made
