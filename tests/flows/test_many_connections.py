"""A process that a shell begins with few files open has as many connections as it needs."""

import asyncio
import contextlib
import resource
from collections.abc import Iterator

from support.process import deployment

FEW = 256  # what the shells of some systems allow


@contextlib.contextmanager
def few_files() -> Iterator[None]:
    """What is begun meanwhile may open few files, unless it asks for more."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def test_more_clients_are_answered_than_the_shell_allows_files() -> None:
    with deployment() as made:
        await made.migrate()
        with few_files():
            replica = made.start()
        await replica.ready()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(FEW + 50):
                reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
                stack.callback(writer.close)
                writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
                assert answer == b"HTTP/1.1 200 OK\r\n"
