"""What the story is played with: clients of the service and of the sandbox, and expectations.

* Every call goes through the guarded egress, which lets it go to this machine alone.
* What was expected is compared by ``expect``; what it says of an answer is a status and a code,
  never a body.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.sandbox import Sandbox
from broker.sandbox.elevenlabs.account import FIRST_KEY, SECRET
from broker.sandbox.elevenlabs.conversations import Conversation
from vault.egress import Egress, Reply, Request, Timeouts
from vault.secret import Secret

PATIENCE: Final = Timeouts(read=30.0, total=60.0)


class Unexpected(Exception):
    """A step did not do what it should."""


def expect(what: str, wanted: object, found: object) -> None:
    """Go on only where it is so."""
    if wanted != found:
        raise Unexpected(f"{what}: expected {wanted}, found {found}")


class Said(Struct, frozen=True):
    """An answer. Its repr shows its status and, of a problem, the code."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        return msgspec.json.decode(self.body) if self.body else None

    def __repr__(self) -> str:
        try:
            code = self.json.get("code", "")
        except (msgspec.DecodeError, AttributeError):
            code = ""
        return f"{self.status} {code}".strip()


class Client:
    """Whoever asks one server, with one bearer."""

    def __init__(self, egress: Egress, base: str, *headers: tuple[str, Secret]) -> None:
        self._egress = egress
        self.base = base
        self._headers = headers

    async def ask(self, method: str, path: str, body: object = None) -> Said:
        """Send one request, and take whatever is answered."""
        content = None if body is None else Secret(msgspec.json.encode(body).decode())
        reply: Reply = await self._egress.call(
            "tool",
            Request(
                method=method,
                url=self.base + path,
                headers=(("Content-Type", "application/json"), *self._headers),
                body=content,
                timeout=PATIENCE,
            ),
        )
        return Said(reply.status, reply.body)

    async def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        """What is there."""
        return await self._done("GET", path, None)

    async def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - any JSON
        """Have it done."""
        return await self._done("POST", path, body)

    async def put(self, path: str, body: object) -> Any:  # noqa: ANN401 - any JSON
        """Have it be so."""
        return await self._done("PUT", path, body)

    async def _done(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401 - any JSON
        said = await self.ask(method, path, body)
        if not 200 <= said.status < 300:  # noqa: PLR2004 - what HTTP calls a success
            raise Unexpected(f"{method} {path}: expected a success, found {said!r}")
        return said.json


class World(Struct, frozen=True, kw_only=True):
    """A running service, and a sandbox that plays everybody else."""

    egress: Egress
    sandbox: Sandbox
    service_url: str
    sandbox_url: str
    key: Secret

    @property
    def platform(self) -> Client:
        """The platform's backend."""
        return self.anyone(("xi-api-key", self.key))

    @property
    def elevenlabs(self) -> Client:
        """Whoever sets agents up at the pretend ElevenLabs, and makes them act."""
        return Client(self.egress, self.sandbox_url, ("xi-api-key", Secret(FIRST_KEY)))

    def anyone(self, *headers: tuple[str, Secret]) -> Client:
        """Somebody with these headers at the service."""
        return Client(self.egress, self.service_url, *headers)

    def inside(self, conversation_id: str) -> Conversation:
        """A conversation as the runtime itself has it."""
        [account] = self.sandbox.elevenlabs.accounts.values()
        found = account.conversations.get(conversation_id)
        if not isinstance(found, Conversation):
            raise Unexpected("a conversation at the runtime: expected one, found none")
        return found

    def mark(self, secret: str) -> str:
        """What may be shown of a secret: equal ones look equal."""
        return f"…{self.sandbox.fingerprint(secret)[-4:]}"


def secrets_in(variables: Mapping[str, Any]) -> list[str]:
    """The values that nobody but a tool's header may see, without their scheme."""
    return [str(value).split()[-1] for name, value in variables.items() if name.startswith(SECRET)]
