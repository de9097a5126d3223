"""One browser and one server of pages for all tests in here; a test makes visitors of its own."""

from collections.abc import AsyncIterator

import pytest
from support.browser import MISSING, REASON, Browser, browsing
from support.connect_pages import Shown, showing


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if MISSING:
        pytest.skip(REASON)
    async with browsing() as opened:
        yield opened


@pytest.fixture(scope="session")
async def shown() -> AsyncIterator[Shown]:
    """The pages of connecting an account, on loopback."""
    async with showing() as found:
        yield found
