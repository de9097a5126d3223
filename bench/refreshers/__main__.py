"""``python -m bench.refreshers NAME``: refresh on command until the input ends."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Final

import msgspec
import uvloop

from bench.refreshers import Done, Refresh, Settings, Task
from broker import logs

Opened = Callable[[Settings], AbstractAsyncContextManager[Refresh]]

# Only what is asked for is imported: each process is made of its own parts alone.
WHERE: Final = {
    "keyturn": ("bench.refreshers.keyturn", "opened"),
    "keyturn lease": ("bench.refreshers.leasing", "opened"),
    "http client": ("bench.baselines.http_client", "opened"),
    "handwritten": ("bench.baselines.handwritten", "opened"),
    "handwritten, new client": ("bench.baselines.handwritten", "opened_new_client"),
}


async def main(name: str) -> None:
    """Serve the commands of whoever started us."""
    logs.configure("warning")
    settings = msgspec.json.decode(await _line(), type=Settings)
    module, function = WHERE[name]
    opened: Opened = getattr(import_module(module), function)
    async with opened(settings) as refresh:
        _say(Done(0))
        while line := await _line():
            task = msgspec.json.decode(line, type=Task)
            several = settings.names[task.first : task.first + task.count]
            _say(Done(await refresh(several)))


async def _line() -> bytes:
    # A thread waits for it: it lies idle while there is something to measure.
    return await asyncio.to_thread(sys.stdin.buffer.readline)


def _say(what: Any) -> None:  # noqa: ANN401 - any struct
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
