"""What the story runs on: a service, its PostgreSQL and a sandbox, for as long as this is open."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from broker import boot, logs
from broker.app import create_service
from broker.demo.world import Unexpected, World
from broker.sandbox import Sandbox
from broker.sandbox.server import embedded as embedded_sandbox
from broker.sandbox.server import listen
from broker.server import embedded as embedded_service
from broker.settings import Settings, load
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.scheduler import ticking
from vault.secret import Secret

HOST: Final = "127.0.0.1"
KEPT: Final = "KEYTURN_PG_BINDIR"


@contextlib.asynccontextmanager
async def staged(sandbox: Sandbox) -> AsyncIterator[World]:
    """Start everything, and stop it in the opposite order."""
    with _folder() as folder, listen(HOST, 0) as ours, listen(HOST, 0) as theirs:
        service_port, sandbox_port = ours.getsockname()[1], theirs.getsockname()[1]
        settings = _settings(folder, service_port, sandbox_port)
        logs.configure(settings.log_level)
        async with (
            embedded_sandbox(sandbox, theirs),
            boot.house(settings) as house,
            ticking(boot.jobs(house)) as ticks,
        ):
            key: Secret | None = await boot.first_workspace(house.vault, settings)
            if key is None:
                raise Unexpected("the first start: expected a new workspace, found an old one")
            service = create_service(house.vault, house.broker, settings)
            service.app.state.ticks = ticks
            egress = Egress(allow=parse_allow(HOST, development=True))
            async with embedded_service(service, settings, ours):
                try:
                    yield World(
                        egress=egress,
                        sandbox=sandbox,
                        service_url=settings.origin,
                        sandbox_url=f"http://{HOST}:{sandbox_port}",
                        key=key,
                    )
                finally:
                    await egress.aclose()


def _settings(folder: Path, service_port: int, sandbox_port: int) -> Settings:
    """A deployment of its own: whatever this terminal is set up for is left alone."""
    chosen = {
        "KEYTURN_MODE": "development",
        "KEYTURN_DATA_DIR": str(folder),
        "KEYTURN_PORT": str(service_port),
        "KEYTURN_EGRESS_ALLOW": f"{HOST}:{sandbox_port}",
        "KEYTURN_LOG_LEVEL": "error",
    }
    if KEPT in os.environ:
        chosen[KEPT] = os.environ[KEPT]
    return load(chosen)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards, with what PostgreSQL keeps beside it."""
    folder = Path(tempfile.mkdtemp(prefix="keyturn-demo-")).resolve()
    folder.chmod(0o711)  # started by root, PostgreSQL runs as a lesser account, below it
    try:
        yield folder
    finally:
        postgres = Embedded(folder / "postgres")
        for left in (postgres.socket_dir, postgres.home, folder):
            shutil.rmtree(left, ignore_errors=True)
