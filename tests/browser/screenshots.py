"""Paint the pictures of the documentation: ``python tests/browser/screenshots.py``.

They are of a service that is really there, where somebody really connects an account of the
sandbox: what they show is what people see.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

CHECKOUT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from support.api import Api  # noqa: E402 - as pytest does it for the tests
from support.browser import Browser, Visitor, browsing  # noqa: E402 - as above
from support.connecting import integrate, invite  # noqa: E402 - as above
from support.process import deployment  # noqa: E402 - as above
from support.sandbox import Provider, providing  # noqa: E402 - as above

from broker.sandbox import Consent  # noqa: E402 - as above
from vault.bearer import generate  # noqa: E402 - as above

IMAGES: Final = CHECKOUT / "docs" / "images"
SIZE: Final = (440, 560)
MAX_BYTES: Final = 60_000
INTEGRATION: Final = "example_calendar"


class Scene:
    """A workspace at a service of its own, a provider, and a browser."""

    def __init__(
        self, api: Api, provider: Provider, browser: Browser, database: str, folder: Path
    ) -> None:
        self._api = api
        self._provider = provider
        self._browser = browser
        self._database = database
        self._folder = folder
        self.painted: list[Path] = []

    async def connect(self) -> None:
        """Somebody connects an account and allows everything."""
        person = await self._arrived(dark=False)
        await self._paint(person, "connect")
        await person.click("Continue to Example calendar")
        await person.click("Allow")
        await person.wait_for_url("/callback")
        await person.go_away()

    async def confirm(self) -> None:
        """The same in the dark, up to the last question."""
        person = await self._arrived(dark=True)
        await person.click("Continue to Example calendar")
        await person.click("Allow")
        await person.wait_for_url("/callback")
        await self._paint(person, "confirm")
        await person.go_away()

    async def fewer_scopes(self) -> None:
        """Somebody allows a part of what is asked for."""
        self._provider.state.consent = Consent(scopes=["openid"])
        person = await self._arrived(dark=False)
        await person.click("Continue to Example calendar")
        await person.click("Allow")
        await person.wait_for_url("/callback")
        await person.click("Yes, connect it")
        await person.wait_for_url("/oauth/confirm")
        await self._paint(person, "fewer-scopes")
        await person.go_away()

    async def expired(self) -> None:
        """A link, some time later."""
        session = await self._invited()
        person = await self._browser.visitor(size=SIZE, dark=True, still=True)
        admin = await asyncpg.connect(self._database)
        await admin.execute("update vault.connect_sessions set expires_at = now()")
        await admin.close()
        await person.goto(session["url"])
        await self._paint(person, "expired")
        await person.go_away()

    async def _invited(self) -> dict[str, Any]:
        return await invite(self._api, "ada")

    async def _arrived(self, *, dark: bool) -> Visitor:
        person = await self._browser.visitor(size=SIZE, dark=dark, still=True)
        await person.goto((await self._invited())["url"])
        return person

    async def _paint(self, person: Visitor, name: str) -> None:
        self.painted.append(self._folder / f"{name}.png")
        await person.screenshot(self.painted[-1])


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Start a service with a workspace, an integration at a sandbox, and a browser."""
    operator = generate("operator").reveal()
    with deployment(operator_key=operator, egress_allow="127.0.0.1") as place:
        await place.migrate()
        replica = await place.start().ready()
        async with aiohttp.ClientSession() as session, providing() as provider:
            owner = Api(session, replica.base, operator)
            made = await owner.post("/v1/workspaces", {"name": "Acme Travel"})
            api = owner.with_key(made.json["api_key"])
            callback = f"{replica.base}/oauth/oidc/{INTEGRATION}/callback"
            await integrate(api, provider, callback, name=INTEGRATION)
            provider.state.consent = Consent()
            async with browsing() as browser:
                yield Scene(api, provider, browser, place.owner.reveal(), folder)


async def paint(folder: Path) -> list[Path]:
    """Take each picture; return their files."""
    async with scene(folder) as found:
        await found.connect()
        await found.confirm()
        await found.fewer_scopes()
        await found.expired()
        return found.painted


def main() -> int:
    """Paint them where the documentation shows them, once all of them are there."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        painted = asyncio.run(paint(Path(folder)))
        for file in painted:
            size = file.stat().st_size
            sys.stdout.write(f"{(IMAGES / file.name).relative_to(CHECKOUT)}: {size:,} bytes\n")
            if size > MAX_BYTES:
                sys.stderr.write(f"That is more than {MAX_BYTES:,}.\n")
                return 1
            (IMAGES / file.name).write_bytes(file.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
