"""The outside world, played by a sandbox: our egress as it is, but for where an address leads.

What is sent to ``https://host/path`` arrives in the sandbox at ``/{dialect}/host/path``. So neither
the catalogue nor the engine is told anything of a test, and a wrong host is noticed like a wrong
path. An address has to be one that may be called in production; it is checked before it is led
elsewhere.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from vault.egress import Egress, Purpose, Reply, Request, VettedUrl, parse_allow
from vault.egress.address import vet

HTTPS: Final = "https://"


async def _nobody(_host: str) -> Sequence[str]:
    return ()


class Elsewhere(Egress):
    """An egress for which the sandbox at ``base``, speaking this dialect, is all there is."""

    def __init__(self, base: str, dialect: str) -> None:
        place = base.removeprefix("http://")
        super().__init__(allow=parse_allow(place, development=True), resolver=_nobody)
        self._here = f"{base}/{dialect}/"

    def vet_url(self, purpose: Purpose, url: str) -> VettedUrl:
        return super().vet_url(purpose, self._led(purpose, url))

    async def call(self, purpose: Purpose, request: Request) -> Reply:
        return await super().call(purpose, replace(request, url=self._led(purpose, request.url)))

    def _led(self, purpose: Purpose, url: str) -> str:
        if url.startswith(self._here):
            return url
        vet((), purpose, url)
        return self._here + url.removeprefix(HTTPS)
