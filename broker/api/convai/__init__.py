"""The ElevenLabs-compatible routes: their paths, bodies, status codes and errors, and our values.

* The unmodified official SDKs, pointed at our base URL, must not notice the difference:
  tests/peers/ runs them.
* Errors have ElevenLabs' bodies (``errors``), and no answer is ever a redirect: the Python SDK
  would send the key along.
* Every required field is always there; what we add (``allowed_hosts``, ``environment_variables``
  in ``used_by``) comes beside it.
"""

from typing import Final

from litestar import Router

from broker.api.convai import (
    auth_connections,
    conversation_socket,
    environment_variables,
    environments,
    outbound_calls,
    phone_numbers,
    secrets,
    sessions,
)

ROUTERS: Final[tuple[Router, ...]] = (
    environment_variables.router,
    environments.router,
    secrets.router,
    auth_connections.router,
    sessions.router,
    outbound_calls.router,
    phone_numbers.router,
    conversation_socket.router,
)
