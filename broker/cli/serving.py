"""What ``keyturn serve`` and ``keyturn work`` run, until they are told to stop."""

import asyncio
import os
import signal

from broker import boot, server, terminal
from broker.api.tracing import tracing
from broker.app import create_service
from broker.terminal import say
from vault import __version__
from vault.scheduler import ticking


async def serve_until_stopped(*, scheduler: bool) -> None:
    """Answer HTTP; with a ``scheduler``, do what is to be done in the background, too."""
    settings = terminal.settings()
    boot.harden_process()
    boot.allow_connections()
    with tracing(os.environ) as traces:
        async with boot.house(settings, traces) as house:
            await house.vault.join()
            first_key = await boot.first_workspace(house.vault, settings)
            service = create_service(house.vault, house.broker, settings, traces=traces)
            house.courier.observe = service.metrics.delivered
            say(f"Keyturn {__version__} on {settings.origin}  (docs: {settings.origin}/docs)")
            if first_key is not None:
                say("Workspace 'default' is made. Its key, shown this once:")
                say(first_key.reveal())
            jobs = boot.jobs(house) if scheduler else []
            async with ticking([*jobs, boot.counting(house.vault, service.metrics)]) as ticks:
                ticks.observe = service.metrics.tick_ended
                service.app.state.ticks = ticks if scheduler else None
                await server.run(service, settings)


async def work_until_stopped() -> None:
    """Do what is to be done in the background, and no more; end when all of it is done."""
    settings = terminal.settings()
    boot.harden_process()
    boot.allow_connections()
    with tracing(os.environ) as traces:
        async with boot.house(settings, traces) as house, ticking(boot.jobs(house)):
            await house.vault.join()
            say(f"Keyturn {__version__} works.")
            await _stopped()


async def _stopped() -> None:
    over = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, over.set)
    await over.wait()
