"""What the sandbox remembers: workspaces, what each of them holds, and what everybody was asked.

One API key is one workspace; nothing of one is ever found from another.
"""

import asyncio
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from broker.sandbox.elevenlabs.knobs import Behaviour, Rule, SocketFaults
from broker.sandbox.elevenlabs.leaks import LeakDetector
from vault.egress import Egress, parse_allow

MAX_REQUESTS: Final = 10_000
MAX_CONVERSATIONS: Final = 50_000
FIRST_KEY: Final = "sandbox"
# Tools, webhooks and token endpoints of whoever tests: on their machine, or anywhere.
EVERYWHERE: Final = parse_allow("0.0.0.0/0,::/0", development=True)
PRODUCTION: Final = "production"
REDACTED: Final = "<REDACTED>"
SECRET: Final = "secret__"  # noqa: S105 - how a variable's name begins

_TELLING = re.compile(r"secret|password|passphrase|token|api.?key|client_key|certificate|^value$")
_BEARING = frozenset({"xi-api-key", "authorization", "cookie", "sec-websocket-protocol"})
_TICKETS = frozenset({"conversation_signature", "access_token", "token"})


class Seen(Struct, frozen=True, kw_only=True):
    """One request as it came in; whatever may be a credential is a fingerprint."""

    at: float
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any = None


class Secret(Struct, kw_only=True):
    """A workspace secret."""

    secret_id: str
    name: str
    value: str

    def __repr__(self) -> str:
        return f"Secret({self.secret_id})"


class Variable(Struct, kw_only=True):
    """An environment variable; a value is a text or a reference."""

    id: str
    label: str
    type: Literal["string", "secret", "auth_connection"]
    values: dict[str, Any]
    created_at: int
    updated_at: int


class Stored(Struct, kw_only=True):
    """Whatever else is kept as it was sent."""

    id: str
    config: dict[str, Any]
    created_at: int
    updated_at: int

    def __repr__(self) -> str:
        return f"Stored({self.id})"


class AuthConnection(Struct, kw_only=True):
    id: str
    config: dict[str, Any]
    status: Literal["active", "refresh_failed", "credential_invalid"] = "active"
    token: str | None = None
    token_until: float = 0.0

    def __repr__(self) -> str:
        return f"AuthConnection({self.id})"


class Webhook(Struct, kw_only=True):
    """A workspace webhook, which signs what it sends."""

    id: str
    name: str
    url: str
    secret: str
    request_headers: dict[str, Any] | None
    created_at: int
    is_disabled: bool = False
    failures: int = 0
    last_failure: tuple[int | None, int] | None = None  # status, when

    def __repr__(self) -> str:
        return f"Webhook({self.id})"


class Ticket(Struct, kw_only=True):
    """A signed URL that was given out."""

    conversation_id: str
    agent_id: str
    until: float
    single_use: bool
    environment: str | None
    branch_id: str | None


class Account(Struct, kw_only=True):
    """One workspace."""

    workspace_id: str
    api_key: str
    environments: dict[str, int] = {}
    variables: dict[str, Variable] = {}
    secrets: dict[str, Secret] = {}
    auth_connections: dict[str, AuthConnection] = {}
    agents: dict[str, Stored] = {}
    tools: dict[str, Stored] = {}
    mcp_servers: dict[str, Stored] = {}
    phone_numbers: dict[str, Stored] = {}
    webhooks: dict[str, Webhook] = {}
    batches: dict[str, Stored] = {}
    scripts: dict[str, list[Rule]] = {}  # by agent
    settings: dict[str, Any] = {}
    tickets: dict[str, Ticket] = {}  # by signature
    conversations: dict[str, Any] = {}  # broker.sandbox.elevenlabs.conversations.Conversation
    signing_key: bytes = field(default_factory=lambda: os.urandom(32))

    def __repr__(self) -> str:
        return f"Account({self.workspace_id})"


class World:
    """The state of one stand-in. ``fingerprint``: equal values look equal, and hide."""

    def __init__(self, fingerprint: Callable[[str], str]) -> None:
        self.egress = Egress(allow=EVERYWHERE)
        self.fingerprint = fingerprint
        self._background: set[asyncio.Task[None]] = set()
        self.reset()

    def reset(self) -> None:
        """As new. What is under way goes on, and changes nothing any more."""
        self.accounts: dict[str, Account] = {}
        self.socket_faults: SocketFaults | None = None
        self.behaviour = Behaviour()
        self.reroutes: dict[str, str] = {}  # origin -> origin
        self.requests: deque[Seen] = deque(maxlen=MAX_REQUESTS)
        self.leaks = LeakDetector(self.fingerprint, self.now)
        self._ahead = 0.0
        self.open_account(FIRST_KEY)

    async def aclose(self) -> None:
        """Give up what is under way, and close the connections."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.egress.aclose()

    def open_account(self, key: str) -> Account:
        """Make the workspace of this key; the one that is there, if it is."""
        if (found := self.accounts.get(key)) is None:
            workspace_id = f"workspace_{len(self.accounts) + 1}"
            found = self.accounts[key] = Account(workspace_id=workspace_id, api_key=key)
            found.environments[PRODUCTION] = self.seconds()
        return found

    def now(self) -> float:
        """The sandbox's clock, which a knob puts forward."""
        return time.time() + self._ahead

    def seconds(self) -> int:
        return int(self.now())

    def put_clock_forward(self, seconds: float) -> None:
        self._ahead += seconds

    def take_socket_faults(self) -> SocketFaults:
        found = self.socket_faults
        if found is not None and found.times is not None:
            self.socket_faults = replace(found, times=found.times - 1) if found.times > 1 else None
        return found or SocketFaults()

    def in_background(self, task: asyncio.Task[None]) -> None:
        """Keep a task alive until it is done."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settle(self) -> None:
        """Wait for what is still under way: webhooks that follow a conversation."""
        while self._background:
            await asyncio.wait(set(self._background))

    def rerouted(self, url: str) -> str:
        """Where a call really goes."""
        for origin, target in self.reroutes.items():
            if url == origin or url.startswith((f"{origin}/", f"{origin}?")):
                return target + url.removeprefix(origin)
        return url

    def note(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: Mapping[str, str],
        body: object,
    ) -> None:
        """Write a request down without the credentials that it holds."""
        self.requests.append(
            Seen(
                at=self.now(),
                method=method,
                path=path,
                query=[(n, self.fingerprint(v) if n in _TICKETS else v) for n, v in query],
                headers={
                    n: self.fingerprint(v) if n in _BEARING else v for n, v in headers.items()
                },
                body=self.covered(body),
            )
        )

    def covered(self, value: object, name: str = "") -> Any:  # noqa: ANN401 - any JSON
        """Replace whatever may be a credential by its fingerprint."""
        if isinstance(value, dict):
            return {key: self.covered(one, str(key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.covered(one, name) for one in value]
        if isinstance(value, str) and _TELLING.search(name.lower()):
            return self.fingerprint(value)
        return value


def new_id(prefix: str) -> str:
    """Make an id as ElevenLabs' look: letters and digits."""
    return f"{prefix}_{secrets.token_hex(14)}"


def secrets_of(variables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The variables whose values nobody but a tool's header may see."""
    for name, value in variables.items():
        if name.startswith(SECRET) and isinstance(value, str):
            yield name, value
