"""A person with a browser, for pages that open one: ``python -m support.person URL``.

Follows a connect link to the sandbox, allows it as Ada, and says yes or goes home to the platform,
which somebody has started just now.
"""

import asyncio
import socket
import sys
from typing import Final
from urllib.parse import urlsplit

from support.visitor import visiting

PATIENCE: Final = 120


async def connect(url: str) -> None:
    """From the link to the last page, or an assertion."""
    async with visiting() as browser:
        asked = await browser.follow(await browser.submit(await browser.get(url)))
        allowed = await browser.submit(asked, account="ada", decision="allow")
        back = await browser.follow(allowed)
        if back.location != back.url:  # to the platform, which has the last word
            await listens(urlsplit(back.location).port)
            assert (await browser.follow(back)).status == 200
            return
        end = await browser.submit(back, _answer="yes")
        assert end.title == "Your account is connected", end.title


async def listens(port: int | None) -> None:
    """Wait until somebody does. A look costs nothing, and is no request."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(connect(sys.argv[1]))
