"""What the sandbox knows: its knobs, tokens, dialects, and what it was asked."""

import hashlib
import hmac
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from broker.sandbox.consent import Questions
from broker.sandbox.device import Devices
from broker.sandbox.dialect import Dialect
from broker.sandbox.elevenlabs.account import World
from broker.sandbox.faults import Faults
from broker.sandbox.grants import Ledger, Token
from broker.sandbox.history import History
from broker.sandbox.knobs import PEOPLE, Client, ClientKey, Consent, Issuing, Person
from broker.sandbox.signing import Keys

__all__ = ["Client", "ClientKey", "Held", "Issuing", "Sandbox", "Seen"]

MAX_REQUESTS: Final = 10_000
MAX_USED: Final = 100_000
MAX_KEPT: Final = 10_000

Value = TypeVar("Value")

# Words of the protocol; whatever else was sent may be a secret.
_PLAIN: Final = frozenset(
    {
        "audience",
        "client_assertion_type",
        "grant_type",
        "resource",
        "response_type",
        "scope",
        "token_type_hint",
    }
)


class Seen(Struct, frozen=True):
    """One request. ``fields`` and ``headers`` hold hashes, but for words of the protocol."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, str]


class Held(Struct, kw_only=True):
    """A temporary or a lasting credential of OAuth 1.0a."""

    consumer: str
    secret: str = ""
    callback: str = ""
    verifier: str = ""
    account: str = ""
    lasting: bool = False


class Kept(dict[str, Value], Generic[Value]):
    """What is kept for a while; too much pushes the oldest out."""

    def __setitem__(self, name: str, value: Value) -> None:
        super().__setitem__(name, value)
        while len(self) > MAX_KEPT:
            del self[next(iter(self))]


class Sandbox:
    """The state of one sandbox."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.people: dict[str, Person] = dict(PEOPLE)
        self.consent = Consent()
        self.faults: Faults | None = None
        self.issuing = Issuing()
        self.dialects: dict[str, Dialect] = {}
        self.requests: deque[Seen] = deque(maxlen=MAX_REQUESTS)
        self.history = History()
        self.ledger = Ledger(self.history, self.fingerprint)
        self.questions = Questions()
        self.devices = Devices()
        self.held: Kept[Held] = Kept()
        self.pushed: Kept[tuple[float, Mapping[str, str]]] = Kept()  # RFC 9126: until when, what
        self.keys = Keys()
        self.elevenlabs = World(self.fingerprint)
        self._used: set[bytes] = set()
        self._salt = os.urandom(32)

    def alive(self, token: str, realm: str = "", request: int = 0) -> Token | None:
        """Whose token this is, if it lives."""
        issuing = self.issuing_of(realm)
        return self.ledger.alive(token, realm, grace=issuing.grace, request=request)

    def issuing_of(self, realm: str) -> Issuing:
        dialect = self.dialects.get(realm)
        return dialect.issuing if dialect else self.issuing

    def issue_as(self, realm: str, issuing: Issuing) -> None:
        """Put the token knob of the sandbox's own provider, or of a dialect."""
        if realm:
            self.dialects[realm] = replace(self.dialects[realm], issuing=issuing)
        else:
            self.issuing = issuing

    def reset(self) -> None:
        """As new, without a restart; the history goes on."""
        self.revoke_all()
        self.clients.clear()
        self.people = dict(PEOPLE)
        self.consent, self.issuing, self.faults = Consent(), Issuing(), None
        self.dialects.clear()
        self.held.clear()
        self.pushed.clear()
        self.elevenlabs.reset()

    async def aclose(self) -> None:
        """Close what was opened towards others."""
        await self.elevenlabs.aclose()

    def random(self) -> str:
        return secrets.token_urlsafe(24)

    def revoke_all(self) -> None:
        """Every token given out so far is dead."""
        for family in self.ledger.families():
            self.ledger.end(family, "knob")

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

    def first_use(self, once: str) -> bool:
        """Has this assertion or nonce not been seen before?"""
        hashed = self._hash(once)
        if hashed in self._used:
            return False
        if len(self._used) >= MAX_USED:
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
