"""The door's part for the catalogue. It belongs to the deployment and holds no credential."""

import asyncio

from vault import access
from vault.errors import NotFound
from vault.model import Caller, Page
from vault.providers.schema import Provider
from vault.vault.door import Door


class Providers(Door):
    """What is known of providers."""

    async def list_providers(self, caller: Caller, page: Page) -> list[Provider]:
        """A part of the catalogue, by id."""
        access.permit(caller, "provider.list")
        ids = [one for one in self._catalogue.ids() if one > page.after][: page.limit]
        # Files are read where they cannot hold up other requests.
        return await asyncio.to_thread(lambda: [self._catalogue.get(one) for one in ids])

    async def get_provider(self, caller: Caller, provider_id: str) -> Provider:
        """One provider; ``NotFound`` if there is none."""
        access.permit(caller, "provider.read")
        return await asyncio.to_thread(self._catalogue.get, provider_id)

    def answers_in_fragment(self, provider_id: str) -> bool:
        """Does this provider answer where only a script in the browser can read it?"""
        try:
            return self._catalogue.get(provider_id).mode == "telegram_login"
        except NotFound:
            return False

    def is_operators(self, provider: Provider) -> bool:
        """Does this provider come from the operator's folder?"""
        return self._catalogue.is_operators(provider.id)
