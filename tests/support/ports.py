"""Ports for servers in other processes, which cannot be handed a socket that listens already."""

import secrets
import socket
from pathlib import Path
from typing import Final

_CHOSEN_BY_THE_SYSTEM: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """One that nobody gets by chance until the server listens there, which may take a minute.

    A port that the system chooses, it chooses again: for whoever connects or listens meanwhile. So
    it is one of those below, and no other process of ours asks for the same one.
    """
    below = int(_CHOSEN_BY_THE_SYSTEM.read_text().split()[0])
    while True:
        port = below // 3 + secrets.randbelow(below - below // 3)
        if port not in _given and _nobody_listens(port):
            _given.add(port)
            return port


def _nobody_listens(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
