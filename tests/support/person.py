"""A person with a browser, for pages that open one: ``python -m support.person URL``.

Follows a connect link to the sandbox, allows it as Ada, and says yes or goes home to the platform.
"""

import asyncio
import sys

from support.visitor import visiting


async def connect(url: str) -> None:
    """From the link to the last page, or an assertion."""
    async with visiting() as browser:
        asked = await browser.follow(await browser.submit(await browser.get(url)))
        allowed = await browser.submit(asked, account="ada", decision="allow")
        back = await browser.follow(allowed)
        if back.location != back.url:  # to the platform, which has the last word
            assert (await browser.follow(back)).status == 200
            return
        end = await browser.submit(back, _answer="yes")
        assert end.title == "Your account is connected", end.title


if __name__ == "__main__":
    asyncio.run(connect(sys.argv[1]))
