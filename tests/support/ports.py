"""Ports for what is started in a process of its own, and listens only after a while."""

import itertools
import os
import re
import socket
from typing import Final

# Below those that a system gives to whoever asks for any: on Linux from 32768 on. One of those may
# be given to somebody else before the process listens that it was meant for, and sometimes is.
LOWEST: Final = 12_000
EACH: Final = 1_000  # for each of the run's workers, of which the last ones share
WORKERS: Final = 20

_worker: Final = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % WORKERS
# Another run on this machine is likely to be elsewhere.
_next: Final = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A port on which nobody listens, and that nobody is given by chance."""
    for number in itertools.islice(_next, EACH):
        port = LOWEST + _worker * EACH + number % EACH
        with socket.socket() as tried:
            # As servers do: what is left of a connection that was there is no hindrance.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports are taken")
