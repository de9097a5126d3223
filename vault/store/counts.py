"""Numbers of the whole deployment, counted with the worker's login."""

from typing import Final

from msgspec import Struct

from vault.database import Database
from vault.sql import Query


class ConnectionCount(Struct, frozen=True):
    """So many connections at one provider are in one state."""

    provider: str
    state: str
    number: int


class EndpointCount(Struct, frozen=True):
    """So many token endpoints of one provider. ``broken``: their circuit is open."""

    provider: str
    standing: str
    broken: bool
    number: int


class _Seconds(Struct, frozen=True):
    seconds: float


_connections: Final = Query("counts", "connections", ConnectionCount)
_endpoints: Final = Query("counts", "endpoints", EndpointCount)
_oldest_due: Final = Query("counts", "oldest_due", _Seconds)


async def connections(worker: Database) -> list[ConnectionCount]:
    """One look at every connection's row: about half a second for a million."""
    return await _connections.lookup_all(worker)


async def endpoints(worker: Database) -> list[EndpointCount]:
    return await _endpoints.lookup_all(worker)


async def oldest_due(worker: Database) -> float:
    """For how many seconds what is due has waited, at the most; an index knows."""
    found = await _oldest_due.lookup(worker)
    return found.seconds if found else 0.0
