"""What the sandbox knows: clients, tokens, and what it was asked."""

import hashlib
import hmac
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct

from broker.sandbox.faults import Faults
from vault.auth_kinds import Algorithm

MAX_REQUESTS: Final = 10_000
MAX_TOKENS: Final = 100_000
DEFAULT_LIFETIME: Final = 3_600.0

# Words of the protocol; whatever else was sent may be a secret.
_PLAIN: Final = frozenset({"grant_type", "client_assertion_type", "scope", "audience", "resource"})


class ClientKey(Struct, frozen=True, forbid_unknown_fields=True):
    """What checks a client's signatures: a shared secret, or a public key as PEM."""

    algorithm: Algorithm
    key: str

    def __repr__(self) -> str:
        return f"ClientKey({self.algorithm})"


class Client(Struct, frozen=True, forbid_unknown_fields=True):
    """A registered client. ``scopes`` None: it may have any."""

    secret: str | None = None
    keys: list[ClientKey] = []
    scopes: list[str] | None = None

    def __repr__(self) -> str:
        return "Client(***)"


class Issuing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens are like from now on."""

    lifetime: Annotated[float, Meta(ge=0)] = DEFAULT_LIFETIME  # seconds that they really live
    expires_in: Any = UNSET  # what is said of it; absent: the truth, null: nothing
    fields: dict[str, Any] = {}  # whatever else a reply shall hold


class Issued(Struct, frozen=True):
    """A token that was given out."""

    client_id: str
    scope: str
    expires_at: float  # on the monotonic clock


class Seen(Struct, frozen=True):
    """One request. ``fields`` and ``headers`` hold hashes, but for words of the protocol."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, str]


class Sandbox:
    """The state of one sandbox."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.faults: Faults | None = None
        self.issuing = Issuing()
        self.requests: deque[Seen] = deque(maxlen=MAX_REQUESTS)
        self._used: set[bytes] = set()
        self._tokens: dict[bytes, Issued] = {}
        self._salt = os.urandom(32)

    def issue(self, token: str, client_id: str, scope: str) -> None:
        """Remember a token that was just made."""
        while len(self._tokens) >= MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[self._hash(token)] = Issued(
            client_id, scope, time.monotonic() + self.issuing.lifetime
        )

    def alive(self, token: str) -> Issued | None:
        """Whose token this is, if it lives."""
        issued = self._tokens.get(self._hash(token))
        return issued if issued and issued.expires_at > time.monotonic() else None

    def revoke_all(self) -> None:
        self._tokens.clear()

    def note(
        self, method: str, path: str, headers: Mapping[str, str], fields: Mapping[str, str]
    ) -> None:
        """Write a request down without what it holds."""
        self.requests.append(
            Seen(
                at=time.time(),
                method=method,
                path=path,
                headers={name: self._shown_header(name, value) for name, value in headers.items()},
                fields={
                    name: value if name in _PLAIN else self.fingerprint(value)
                    for name, value in fields.items()
                },
            )
        )

    def fingerprint(self, value: str) -> str:
        """Equal values look equal, in this sandbox only."""
        return "hash:" + self._hash(value).hex()[:16]

    def first_use(self, assertion_id: str) -> bool:
        """Has this assertion not been seen before?"""
        hashed = self._hash(assertion_id)
        if hashed in self._used:
            return False
        if len(self._used) >= MAX_TOKENS:
            self._used.clear()
        self._used.add(hashed)
        return True

    def _shown_header(self, name: str, value: str) -> str:
        if name in ("content-type", "accept", "user-agent"):
            return value
        if name == "authorization":
            scheme, _, rest = value.partition(" ")
            return f"{scheme} {self.fingerprint(rest)}"
        return self.fingerprint(value)

    def _hash(self, value: str) -> bytes:
        return hmac.digest(self._salt, value.encode("utf-8", "surrogatepass"), hashlib.sha256)
