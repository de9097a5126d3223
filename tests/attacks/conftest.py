"""The scene of the attacks on connecting, and who else is on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from conftest import Tenant
from support.api import Running
from support.journey import Scene, set_scene
from support.sandbox import Provider
from support.visitor import Visitor, visiting


@pytest.fixture
async def scene(tenant: Tenant, service: Running, provider: Provider) -> Scene:
    return await set_scene(tenant, service.base, provider)


@pytest.fixture
async def mallory() -> AsyncIterator[Visitor]:
    """Somebody who means harm, at another browser."""
    async with visiting() as found:
        yield found


@pytest.fixture
def calm(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever is sent, nothing is unexpected."""
    yield
    logged = capsys.readouterr()
    assert "unexpected_error" not in logged.out + logged.err
