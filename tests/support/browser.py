"""A real browser for tests: Debian's Chromium, driven through npm's ``playwright-core``.

    async with browsing() as browser:
        ada = await browser.visitor(dark=True)
        await ada.goto(url)
        await ada.click("Continue")

* A visitor is a person with a browser of their own: cookies are kept, and shared with nobody.
* What a page may load is left to its own policy; ``complaints`` are what the console said of it.
* Elements are found as people find them: by label, and by the name of a button or a link.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DRIVER: Final = CHECKOUT / "tests" / "browser" / "driver.mjs"
PACKAGES: Final = CHECKOUT / "tests" / "peers" / "node_modules"
CHROMIUM: Final = Path("/usr/bin/chromium")
NODE: Final = shutil.which("node")
TIMEOUT: Final = 120.0  # more than the driver waits for anything
MAX_LINE: Final = 8 * 1024 * 1024
DESKTOP: Final = (1024, 768)
PHONE: Final = (320, 640)

MISSING: Final = [
    what
    for what, there in {
        "Node.js": NODE is not None,
        "Chromium at /usr/bin/chromium": CHROMIUM.exists(),
        "'npm install' in tests/peers": all(
            (PACKAGES / name).is_dir() for name in ("playwright-core", "axe-core")
        ),
    }.items()
    if not there
]
REASON: Final = f"needs {', '.join(MISSING)} (.ci/run installs all of it)"


class Visitor:
    """One person's browser, with one page open."""

    def __init__(self, browser: "Browser", number: int) -> None:
        self._browser = browser
        self._number = number

    async def goto(self, url: str) -> int | None:
        """Open an address; return the status of the page where that ends."""
        status: int | None = await self._do("goto", url=url)
        return status

    async def back(self) -> None:
        await self._do("back")

    async def fill(self, label: str, value: str) -> None:
        await self._do("fill", label=label, value=value)

    async def check(self, label: str) -> None:
        await self._do("check", label=label)

    async def click(self, name: str) -> None:
        """Press the button, or follow the link, of this name; wait for what it starts to load."""
        await self._do("click", name=name)

    async def press(self, key: str) -> None:
        await self._do("press", key=key)

    async def type(self, text: str) -> None:
        await self._do("type", text=text)

    async def wait_for_url(self, pattern: str) -> str:
        """Wait until the address matches this (JavaScript) pattern; return it."""
        return str(await self._do("wait_for_url", pattern=pattern))

    async def wait_for_text(self, text: str) -> None:
        await self._do("wait_for_text", text=text)

    async def settle(self) -> None:
        """Wait until nothing is loading any more."""
        await self._do("settle")

    async def text(self) -> str:
        """All that can be read."""
        return str(await self._do("text"))

    async def html(self) -> str:
        return str(await self._do("html"))

    async def heading(self) -> str:
        """The one ``h1``; two are an error."""
        return str(await self._do("heading"))

    async def title(self) -> str:
        return str(await self._do("title"))

    async def url(self) -> str:
        return str(await self._do("url"))

    async def evaluate(self, script: str) -> Any:
        return await self._do("evaluate", script=script)

    async def focused(self) -> dict[str, Any] | None:
        """What the keyboard would act on: its tag, text, name, and whether that can be seen."""
        found: dict[str, Any] | None = await self._do("focused")
        return found

    async def cookies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._do("cookies")
        return found

    async def forget(self) -> None:
        """Lose all cookies."""
        await self._do("forget")

    async def complaints(self) -> list[str]:
        """Errors and warnings of the console since last asked; reports of a policy are there."""
        found: list[str] = await self._do("complaints")
        return found

    async def requests(self) -> list[str]:
        """What was asked of any server since last asked: ``GET http://...``."""
        found: list[str] = await self._do("requests")
        return found

    async def screenshot(self, path: Path) -> None:
        await self._do("screenshot", path=str(path), scale="css")

    async def axe(self) -> list[dict[str, Any]]:
        """What axe finds against WCAG 2.2 AA and good practice."""
        found: list[dict[str, Any]] = await self._do("axe")
        return found

    async def go_away(self) -> None:
        await self._do("go_away")

    async def _do(self, deed: str, **more: Any) -> Any:
        return await self._browser.ask({"do": deed, "visitor": self._number, **more})


class Browser:
    """A browser process; requests are answered one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()

    async def visitor(
        self,
        *,
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        script: bool = True,
        still: bool = False,
    ) -> Visitor:
        """Somebody new. ``script``: may pages run JavaScript? ``still``: is motion unwelcome?"""
        number = next(self._numbers)
        width, height = size
        asked = {"width": width, "height": height, "dark": dark, "script": script, "still": still}
        await self.ask({"do": "arrive", "visitor": number, **asked})
        return Visitor(self, number)

    async def ask(self, request: dict[str, Any]) -> Any:
        """Have one thing done, and return its value."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            number = next(self._numbers)
            self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
            line = await asyncio.wait_for(self._process.stdout.readline(), TIMEOUT)
        assert line, "the browser went away"
        answer = json.loads(line)
        assert answer["id"] == number
        assert "error" not in answer, answer["error"]
        return answer["value"]


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run a browser; it is gone afterwards, whatever happened."""
    assert not MISSING, REASON
    process = await asyncio.create_subprocess_exec(
        NODE or "node",
        str(DRIVER),
        str(CHROMIUM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        yield Browser(process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
