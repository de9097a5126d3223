"""A pretend provider and a pretend ElevenLabs, which behave as badly as you ask them to.

For your tests, for ours, and for the demo. ``keyturn sandbox --port 8430`` serves on loopback:

* OAuth 2.0 and OpenID Connect: ``/oauth/authorize`` (a page where one takes an account and allows
  or denies), ``token`` (code with PKCE, refresh token, client credentials, JWT bearer, device
  code), ``revoke``, ``introspect``, ``userinfo``, ``register``, ``device``, ``par``, ``jwks``, and
  the metadata below ``/.well-known``. ``/device`` is where a device's code is typed in.
* ``/oauth1/...``: OAuth 1.0a. ``/mcp``: a resource that wants tokens made for it (RFC 8707, 9728).
* ``GET /whoami``: who holds this bearer token; 401 unless it is alive.
* ``/{dialect}/...``: another provider, whose way of speaking was put as a ``Dialect``.
* ``/v1/...``, behind any prefix: ElevenLabs Agents, HTTP and WebSocket; see
  ``broker.sandbox.elevenlabs``.
* ``/_sandbox``: the knobs.

  * ``PUT /clients/{client_id}``: see ``Client``. ``DELETE`` it, and it is unknown.
  * ``PUT /people/{account}``: see ``Person``; ``ada`` and ``grace`` are there already.
  * ``PUT /consent`` ``{"auto": null | "allow" | "deny" | account, "scopes"?}``: see ``Consent``.
  * ``PUT /tokens`` (``?dialect=``): rotation, lifetimes, odd fields; see ``Issuing``.
  * ``PUT /faults``: latency, errors, cut connections, twisted replies; see ``Faults``. ``DELETE``
    heals.
  * ``PUT /dialects/{name}``: see ``Dialect``. ``DELETE`` forgets it.
  * ``GET /history`` (``?after=&limit=``): what was issued and used, by fingerprints; ``GET /tally``
    counts it, ``GET /families`` shows what lives, ``POST /fingerprint`` ``{"text"}`` says what a
    token is called there.
  * ``GET /requests``: what was asked, newest last; every value but a few harmless ones is hashed,
    so that you can compare and not read. ``DELETE`` forgets.
  * ``DELETE /families/{family}``: the person takes a consent back. ``POST /revoke``: every token is
    dead. ``POST /expire``: every access token is, and no refresh token. ``POST /keys``: sign with
    new keys. ``POST /reset``: as new, but for the history.

It keeps everything in memory, has no password, and is no place for real credentials.
"""

from broker.sandbox.app import create_sandbox
from broker.sandbox.dialect import Dialect
from broker.sandbox.faults import Faults
from broker.sandbox.history import Event, tally, usable
from broker.sandbox.knobs import Client, ClientKey, Consent, IdTokens, Issuing, Person
from broker.sandbox.state import Sandbox

__all__ = [
    "Client",
    "ClientKey",
    "Consent",
    "Dialect",
    "Event",
    "Faults",
    "IdTokens",
    "Issuing",
    "Person",
    "Sandbox",
    "create_sandbox",
    "tally",
    "usable",
]
