"""Every provider of the catalogue, in the provider's own dialect, over real sockets."""

from collections.abc import AsyncIterator

import pytest
from support.dialects import others, recorded
from support.engine import CATALOGUE
from support.sandbox import Provider as Running
from support.sandbox import providing
from support.walks import differences

IDS = sorted(recorded())


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Running]:
    async with providing() as found:
        yield found


@pytest.fixture
def running(sandbox: Running) -> Running:
    sandbox.state.reset()
    return sandbox


@pytest.mark.parametrize("name", IDS)
async def test_consent_tokens_renewal_and_revocation(name: str, running: Running) -> None:
    assert await differences(running, recorded()[name]) == []
