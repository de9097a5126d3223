"""The door's part for calls of a provider's API on behalf of a conversation.

* A credential goes to its connection's own API and nowhere else: the address comes from the same
  place as the credential, and the call leaves by egress as ``provider``.
* Handing the credential out was recorded by ``fresh_tokens``, which gave it.
"""

from contextlib import AbstractAsyncContextManager

from vault import access
from vault.egress import Answer, Request, Upload
from vault.model import Caller
from vault.oauth.api import Api, api_of
from vault.vault.door import found
from vault.vault.refreshing import Fresh, Refreshing


class ProviderApis(Refreshing):
    """Where a connection's API is, and the way there."""

    async def api_of(self, caller: Caller, fresh: Fresh) -> Api | None:
        """How a token that was just handed out is used; ``None`` where that is not known."""
        access.permit(caller, "gateway.use")
        if fresh.tokens is None:
            return None
        row = found(await self._integration_row(caller.workspace, fresh.integration))
        app = await self._app(caller, row, fresh.environment)
        return api_of(app, fresh.tokens)

    def open_api(
        self, caller: Caller, request: Request, upload: Upload | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send one request, and give the answer as it arrives."""
        access.permit(caller, "gateway.use")
        return self._egress.open("provider", request, upload)
