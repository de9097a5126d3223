"""Reaching the server: one host, or several of which one at a time takes writes.

* ``postgresql://user:password@one,two/keyturn``: each host has its own time to answer, so that one
  which swallows packets keeps nobody from the next. Whichever answered last is asked first.
* Of several hosts only the one that takes writes will do, unless the address says otherwise
  (``target_session_attrs``); a standby that nobody has promoted yet is nobody at home.
* Whoever cannot be reached is ``Away``, whatever the driver calls that.
"""

from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from vault.dsn import hosts_of
from vault.errors import Misconfigured
from vault.secret import Secret

# InternalClientError: the protocol met something that it did not expect, as after a stall; and no
# host that takes writes.
GONE: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# A server that is starting, is stopping, or has no connection left is no reason not to ask another.
_NOT_NOW: Final = ("57P", "53")
_WRITES: Final = "read-write"


class Away(Exception):
    """No host could be reached that would do."""


class Server:
    """Where the database is."""

    def __init__(self, dsn: Secret) -> None:
        self._dsn = dsn
        self._hosts = _hosts(dsn)
        self._first = 0

    async def connect(self, *_: object, timeout: float, **options: Any) -> Any:  # noqa: ASYNC109 - the driver's own name for it
        """One connection; raises ``Away``, or the driver's error that is no matter of a host."""
        count = len(self._hosts)
        for number in range(self._first, self._first + count):
            host = self._hosts[number % count]
            try:
                connection = await asyncpg.connect(
                    self._dsn.reveal(), timeout=timeout, **host, **options
                )
            except asyncpg.ClientConfigurationError:
                raise  # the address is none
            except GONE:
                continue
            except asyncpg.PostgresError as error:
                if (error.sqlstate or "").startswith(_NOT_NOW):
                    continue
                raise
            self._first = number % count
            return connection
        raise Away


def _hosts(dsn: Secret) -> list[dict[str, Any]]:
    """What the driver is told beside the address, one host a time."""
    try:
        found = hosts_of(dsn)
        asked_for = parse_qs(urlsplit(dsn.reveal()).query)
    except (Misconfigured, ValueError):
        return [{}]  # the driver says what is wrong with it
    if len(found) < 2:  # noqa: PLR2004 - several
        return [{}]
    attrs = {} if "target_session_attrs" in asked_for else {"target_session_attrs": _WRITES}
    return [{"host": host, "port": port, **attrs} for host, port in found]
