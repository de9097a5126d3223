"""A provider that behaves as badly as you ask it to: for your tests, for ours, and for the demo.

``python -m broker.sandbox --port 8430`` serves on loopback:

* ``POST /oauth/token``: client credentials (secret in the header or in the body, or a signed
  assertion), and the JWT bearer grant. A client has to be registered first.
* ``GET /whoami``: who holds this bearer token; 401 unless it is alive.
* ``/_sandbox``: the knobs.

  * ``PUT /clients/{client_id}`` ``{"secret"?, "keys"?: [{"algorithm", "key"}], "scopes"?}``:
    keys are shared secrets or public keys as PEM. ``DELETE`` it, and it is unknown.
  * ``PUT /faults`` ``{"latency"?, "status"?, "body"?, "content_type"?, "retry_after"?, "drop"?,
    "answer"?, "path"?, "times"?}``: see ``Faults``. ``DELETE`` heals.
  * ``PUT /tokens`` ``{"lifetime"?, "expires_in"?, "fields"?}``: see ``Issuing``.
  * ``GET /requests``: what was asked, newest last; every value but a few harmless ones is hashed,
    so that you can compare and not read. ``DELETE`` forgets.
  * ``POST /revoke``: every token given out so far is dead.

It keeps everything in memory, has no password, and is no place for real credentials.
"""

from broker.sandbox.app import create_sandbox
from broker.sandbox.faults import Faults
from broker.sandbox.state import Client, ClientKey, Issuing, Sandbox

__all__ = ["Client", "ClientKey", "Faults", "Issuing", "Sandbox", "create_sandbox"]
