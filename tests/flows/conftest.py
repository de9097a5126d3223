"""A provider, people with browsers, and a clock that can be moved, for every flow."""

from collections.abc import AsyncIterator

import pytest
from support.journeys import Clock
from support.sandbox import Provider, providing
from support.visitor import Visitor, visiting

from vault.embedded import Embedded


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    async with visiting() as found:
        yield found


@pytest.fixture
async def grace() -> AsyncIterator[Visitor]:
    """Somebody else, at another browser."""
    async with visiting() as found:
        yield found


@pytest.fixture
def clock(migrated: Embedded) -> Clock:
    return Clock(migrated)
