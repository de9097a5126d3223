"""A token endpoint that costs little: strict rotation, and an answer after so many milliseconds.

``python -m bench.baselines.provider PORT`` serves. What it is asked:

* ``POST /token``: a refresh (RFC 6749 section 6). A refresh token works once; a used one is
  refused, so a refresher that mixes something up is found out.
* ``POST /delay/MS``: from now on answer after so long.
* ``GET /count``: how many refreshes were granted and refused.

The tokens say whose they are and which in the row, and are as long as such tokens often are.
"""

import asyncio
import re
import sys
from typing import Final, cast
from urllib.parse import parse_qs

import msgspec
import uvloop
from msgspec import Struct

HOST: Final = "127.0.0.1"
ACCESS_SIZE: Final = 1_200
REFRESH_SIZE: Final = 250
# So short that what was refreshed is due again a second later: rounds follow one another.
LIFETIME: Final = 2

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Tokens(Struct, frozen=True):
    """What the endpoint answers."""

    access_token: str
    refresh_token: str
    expires_in: int = LIFETIME
    token_type: str = "Bearer"  # noqa: S105 - not a secret


def tokens(name: str, number: int) -> Tokens:
    """The pair that is so far in its row; number 0 is what somebody consented to."""
    return Tokens(
        f"a.{name}.{number}.".ljust(ACCESS_SIZE, "x"),
        f"r.{name}.{number}.".ljust(REFRESH_SIZE, "x"),
    )


class Issuer:
    """Who has which pair. A row that it has never heard of begins where its first caller is."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.granted = 0
        self.refused = 0
        self._numbers: dict[str, int] = {}

    def answer(self, form: bytes) -> tuple[int, bytes]:
        """Refresh."""
        [sent] = parse_qs(form.decode()).get("refresh_token", [""])
        _, name, text, *_ = [*sent.split("."), "", ""]
        number = int(text) if text.isdecimal() else -1
        if number < 0 or self._numbers.setdefault(name, number) != number:
            self.refused += 1
            return 400, b'{"error":"invalid_grant"}'
        self.granted += 1
        self._numbers[name] = number + 1
        return 200, msgspec.json.encode(tokens(name, number + 1))


class _Connection(asyncio.Protocol):
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(_END_OF_HEAD)
        if head < 0:
            return
        found = _LENGTH.search(self._received, 0, head + 2)
        end = head + len(_END_OF_HEAD) + (int(found[1]) if found else 0)
        if len(self._received) < end:
            return
        request, self._received = self._received[:end], self._received[end:]
        self._answer(request.split(b" ", 2)[1].decode(), request[head + len(_END_OF_HEAD) :])

    def _answer(self, path: str, body: bytes) -> None:
        issuer = self._issuer
        if path == "/token":
            answer = issuer.answer(body)
            if issuer.delay:
                asyncio.get_running_loop().call_later(issuer.delay, self._send, *answer)
            else:
                self._send(*answer)
            return
        if path.startswith("/delay/"):
            issuer.delay = int(path.removeprefix("/delay/")) / 1000
        counted = {"granted": issuer.granted, "refused": issuer.refused}
        self._send(200, msgspec.json.encode(counted))

    def _send(self, status: int, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Bad Request'}\r\n"  # noqa: PLR2004 - HTTP
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head.encode() + body)


async def main(port: int) -> None:
    """Serve until a signal comes."""
    issuer, loop = Issuer(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(issuer), HOST, port, backlog=1_024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
