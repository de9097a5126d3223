"""The door's part for calls that a workspace configures: its tools, MCP servers, models, webhooks.

* They leave by egress as ``tool``: what the operator opened for another purpose stays closed.
* Nothing is recorded here: ``use_configuration`` gave the values out and left its line.
"""

import asyncio

import msgspec
from msgspec import Struct

from vault import access
from vault.egress import Reply, Request, VettedUrl
from vault.egress.certificates import ClientCertificate
from vault.model import AuthStatus, Caller
from vault.store import environments as rows
from vault.vault.door import Door, found


class AuthFacts(Struct, frozen=True):
    """What is known of an auth connection without opening it."""

    auth_connection_id: str
    name: str
    auth_type: str
    status: AuthStatus
    allowed_hosts: list[str]


class Calls(Door):
    """Outbound calls on a workspace's behalf."""

    def vet_tool_url(self, url: str) -> VettedUrl:
        """Refuse an address that no call could reach. Looks nothing up."""
        return self._egress.vet_url("tool", url)

    async def call_tool(
        self, caller: Caller, request: Request, *, certificate: ClientCertificate | None = None
    ) -> Reply:
        """Send one request, and return the answer whatever its status is."""
        access.permit(caller, "configuration.use")
        if certificate is not None:
            # A context of its own is a connection of its own: no other workspace's call uses it.
            context = await asyncio.to_thread(certificate.context, self._egress)
            request = msgspec.structs.replace(request, tls=context)
        return await self._egress.call("tool", request)

    async def auth_facts(self, caller: Caller, auth_connection_id: str) -> AuthFacts:
        """What a request has to know before it takes credentials from an auth connection."""
        access.permit(caller, "configuration.use")
        row = found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_auth(tx, auth_connection_id)
            )
        )
        return AuthFacts(
            row.auth_connection_id, row.name, row.auth_type, row.status, row.allowed_hosts
        )
