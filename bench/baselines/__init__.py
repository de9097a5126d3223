"""What Keyturn is compared with: the same small exchange, written in two ways.

A POST of about 100 bytes of JSON is decoded and checked, and about 60 bytes are answered.

* ``hello_raw``: a bare ASGI function with msgspec, the least that a Python service can cost here.
* ``hello_typed``: the same as a typed Litestar handler, the least that *our* framework can cost.

Both run on Keyturn's own ``broker.server``, so that no setting of the HTTP server can differ.
"""

from typing import Final

from msgspec import Struct

from bench.load import request


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    """The question."""

    user_id: str
    agent_id: str
    environment: str


class Greeting(Struct, frozen=True):
    """The answer."""

    text: str
    environment: str


def greet(hello: Hello) -> Greeting:
    """All that a baseline does between decoding and encoding."""
    return Greeting(f"Hello {hello.user_id}", hello.environment)


QUESTION: Final = (
    b'{"user_id":"user-0123456789","agent_id":"agent_0123456789abcdefghijklmnop",'
    b'"environment":"production"}'
)
ANSWER: Final = b'{"text":"Hello user-0123456789","environment":"production"}'
HELLO: Final = request("POST", "/hello", expected=ANSWER, body=QUESTION)
