"""A workspace behind the ElevenLabs API, as a target: at ElevenLabs, or at another Keyturn.

* Every byte goes through ``egress``, purpose ``upstream``; the key goes in ``xi-api-key``.
* 429 means that nothing was done, so it is tried again after the pause that the answer asks for.
  Nothing else is: whether a creating request that failed was acted upon, the next plan shows.
* A message of the other side is repeated only where the request held no secret; what else an
  error tells is the status and the code.
* ElevenLabs keeps no ``allowed_hosts``, and an older one has no list of environments.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from broker.environment_file.document import KINDS, normal_config
from broker.environment_file.plan import (
    Dialect,
    KnownAuth,
    KnownSecret,
    KnownVariable,
    State,
    Step,
)
from broker.environment_file.tree import shown
from broker.targets import Fields, Hosts
from vault.egress import Egress, Reply, Request, Timeouts
from vault.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthenticated,
    UpstreamFailed,
    VaultError,
)
from vault.model import AuthRef, SecretRef, Value, VariableType
from vault.secret import Secret

T = TypeVar("T")

ELEVENLABS: Final = "https://api.elevenlabs.io"
PAGE: Final = 100
MAX_PAGES: Final = 10_000
MAX_ANSWER: Final = 16 << 20  # bytes; auth connections come without pages
TRIES: Final = 5
MAX_PAUSE: Final = 60  # seconds
TIMEOUT: Final = Timeouts(read=60.0, total=90.0)

VARIABLES: Final = "/v1/convai/environment-variables"
ENVIRONMENTS: Final = "/v1/convai/environments"
SECRETS: Final = "/v1/convai/secrets"
AUTH_CONNECTIONS: Final = "/v1/workspace/auth-connections"

_OK: Final = range(200, 300)
_MOVED: Final = range(300, 400)
_TOO_MANY: Final = 429
_CODE: Final = re.compile(r"[a-z_]{1,64}")
_FAILURES: Final[dict[int, type[VaultError]]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: NotFound,
    409: Conflict,
    422: Invalid,
}


class _Environment(Struct):
    name: str


class _Environments(Struct):
    environments: list[_Environment]


class _Secret(Struct):
    secret_id: str
    name: str
    allowed_hosts: list[str] = []


class _Secrets(Struct):
    secrets: list[_Secret]
    next_cursor: str | None = None


class _Variable(Struct):
    id: str
    label: str
    type: VariableType
    values: dict[str, str | dict[str, Any]]


class _Variables(Struct):
    environment_variables: list[_Variable]
    next_cursor: str | None = None


class _AuthConnection(Struct):
    id: str
    name: str
    auth_type: str | None = None
    allowed_hosts: list[str] | None = None


class _AuthConnections(Struct):
    auth_connections: list[dict[str, Any]]


class _Settings(Struct):
    secret_fallback: bool = True


class RemoteTarget:
    """One workspace, which the key decides."""

    def __init__(
        self,
        egress: Egress,
        base: str,
        key: Secret,
        dialect: Dialect,
        *,
        max_total: int | None = None,
    ) -> None:
        """``max_total``: so many bytes of answers are read in all."""
        self._left = max_total
        self._egress = egress
        self._base = base.rstrip("/")
        self._key = key
        self._dialect = dialect
        egress.vet_url("upstream", self._base)

    async def read(self) -> State:
        return State(
            variables=[one async for one in self._variables()],
            environments=await self._environments(),
            secrets=[one async for one in self._secrets()],
            auth_connections=await self._auth_connections(),
            secret_fallback=await self._secret_fallback(),
            dialect=self._dialect,
        )

    async def _variables(self) -> AsyncIterator[KnownVariable]:
        async for page in self._pages(VARIABLES, _Variables):
            for one in page.environment_variables:
                values = {name: _value(value) for name, value in one.values.items()}
                yield KnownVariable(one.id, one.label, one.type, values)

    async def _environments(self) -> list[str] | None:
        try:
            found = await self._get(ENVIRONMENTS, _Environments)
        except NotFound:
            return None
        return [one.name for one in found.environments]

    async def _secrets(self) -> AsyncIterator[KnownSecret]:
        async for page in self._pages(SECRETS, _Secrets):
            for one in page.secrets:
                yield KnownSecret(one.secret_id, one.name, self._hosts(one.allowed_hosts))

    async def _auth_connections(self) -> list[KnownAuth]:
        found = await self._get(AUTH_CONNECTIONS, _AuthConnections)
        return [self._auth(one) for one in found.auth_connections]

    def _auth(self, plain: dict[str, Any]) -> KnownAuth:
        try:
            known = msgspec.convert(plain, _AuthConnection)
        except msgspec.ValidationError:
            raise UpstreamFailed("The target's answer cannot be read.") from None
        kind = known.auth_type or ""
        config = normal_config(kind, plain) if kind in KINDS else None
        return KnownAuth(known.id, known.name, config, self._hosts(known.allowed_hosts or ()))

    async def _secret_fallback(self) -> bool:
        if self._dialect == "elevenlabs":
            return True
        try:
            return (await self._get("/v1/settings", _Settings)).secret_fallback
        except NotFound:
            return True

    async def create_secret(self, name: str, value: Secret, hosts: Hosts) -> str:
        body = {"type": "new", "name": name, "value": value.reveal(), **self._own(hosts)}
        return _id(await self._call("POST", SECRETS, body, secret=True), "secret_id")

    async def update_secret(self, secret_id: str, name: str, value: Secret, hosts: Hosts) -> None:
        body = {"type": "update", "name": name, "value": value.reveal(), **self._own(hosts)}
        await self._call("PATCH", f"{SECRETS}/{_part(secret_id)}", body, secret=True)

    async def create_auth(
        self, name: str, config: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> str:
        body = {"name": name, **config, **_revealed(secrets), **self._own(hosts)}
        return _id(await self._call("POST", AUTH_CONNECTIONS, body, secret=True), "id")

    async def update_auth(
        self, auth_id: str, changes: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> None:
        body = {**changes, **_revealed(secrets), **self._own(hosts)}
        await self._call("PATCH", f"{AUTH_CONNECTIONS}/{_part(auth_id)}", body, secret=True)

    async def create_environment(self, name: str) -> None:
        await self._call("POST", ENVIRONMENTS, {"name": name})

    async def create_variable(
        self, label: str, kind: VariableType, values: Mapping[str, Value]
    ) -> None:
        body = {"type": kind, "label": label, "values": msgspec.to_builtins(dict(values))}
        await self._call("POST", VARIABLES, body)

    async def update_variable(self, variable_id: str, changes: Mapping[str, Value | None]) -> None:
        body = {"values": msgspec.to_builtins(dict(changes))}
        await self._call("PATCH", f"{VARIABLES}/{_part(variable_id)}", body)

    async def delete(self, step: Step) -> None:
        place = {
            "secret": f"{SECRETS}/{_part(step.id)}",
            "auth_connection": f"{AUTH_CONNECTIONS}/{_part(step.id)}",
            "variable": f"{VARIABLES}/{_part(step.id)}",
            "environment": f"{ENVIRONMENTS}/{_part(step.name)}",
        }
        await self._call("DELETE", place[step.kind])

    def _hosts(self, hosts: Sequence[str]) -> tuple[str, ...] | None:
        return None if self._dialect == "elevenlabs" else tuple(hosts)

    def _own(self, hosts: Hosts) -> dict[str, list[str]]:
        return {} if self._dialect == "elevenlabs" else {"allowed_hosts": list(hosts)}

    async def _pages(self, path: str, kind: type[T]) -> AsyncIterator[T]:
        query = {"page_size": str(PAGE)}
        for _ in range(MAX_PAGES):
            page = await self._get(f"{path}?{urlencode(query)}", kind)
            yield page
            cursor = getattr(page, "next_cursor", None)
            if not cursor or cursor == query.get("cursor"):
                return
            query["cursor"] = cursor
        raise UpstreamFailed("The target's list does not end.")

    async def _get(self, path: str, kind: type[T]) -> T:
        reply = await self._call("GET", path)
        try:
            return msgspec.json.decode(reply.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise UpstreamFailed("The target's answer cannot be read: is this the address of an API?")

    async def _call(
        self, method: str, path: str, body: object = None, *, secret: bool = False
    ) -> Reply:
        request = Request(
            method=method,
            url=self._base + path,
            headers=(
                ("xi-api-key", self._key),
                ("Accept", "application/json"),
                *((("Content-Type", "application/json"),) if body is not None else ()),
            ),
            body=None if body is None else Secret(msgspec.json.encode(body)),
            timeout=TIMEOUT,
            max_bytes=MAX_ANSWER,
        )
        reply = await self._asked(request)
        for number in range(TRIES):
            if reply.status != _TOO_MANY:
                break
            await asyncio.sleep(_pause(reply, number))
            reply = await self._asked(request)
        if reply.status in _OK:
            return reply
        kind = _FAILURES.get(reply.status, UpstreamFailed)
        raise kind(_explained(reply, repeat=not secret))

    async def _asked(self, request: Request) -> Reply:
        if self._left is None:
            return await self._egress.call("upstream", request)
        limited = msgspec.structs.replace(request, max_bytes=min(MAX_ANSWER, self._left))
        reply = await self._egress.call("upstream", limited)
        self._left = max(self._left - len(reply.body), 0)
        return reply


def dialect_of(url: str) -> Dialect:
    """Is this one of ElevenLabs' own addresses (there is one a residency), or a Keyturn's?"""
    host = urlsplit(url).hostname or ""
    return "elevenlabs" if f".{host}".endswith(".elevenlabs.io") else "keyturn"


def _value(value: str | dict[str, Any]) -> Value:
    if isinstance(value, str):
        return value
    if "auth_connection_id" in value:
        return AuthRef(str(value["auth_connection_id"]))
    return SecretRef(str(value.get("secret_id")))


def _revealed(secrets: Fields) -> dict[str, str]:
    return {field: value.reveal() for field, value in secrets.items()}


def _part(name: str) -> str:
    return quote(name, safe="")


def _id(reply: Reply, field: str) -> str:
    try:
        found = msgspec.json.decode(reply.body, type=dict[str, Any])[field]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        found = None
    if isinstance(found, str):
        return found
    raise UpstreamFailed("The target's answer cannot be read; plan again to see what was done.")


def _pause(reply: Reply, number: int) -> float:
    asked = reply.get("Retry-After") or ""
    return min(int(asked) if asked.isascii() and asked.isdigit() else 2**number, MAX_PAUSE)


def _explained(reply: Reply, *, repeat: bool) -> str:
    """The status, the code, and where it is safe the message of an error body."""
    if reply.status in _MOVED:
        return "the target answered with a redirect: give the address that it leads to"
    headline = {401: "the target does not know this key", 403: "the target forbids it to this key"}
    text = headline.get(reply.status, f"the target answered {reply.status}")
    try:
        detail = msgspec.json.decode(reply.body, type=dict[str, Any]).get("detail")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text
    code = message = ""
    if isinstance(detail, dict):
        code = str(detail.get("code") or detail.get("status") or "")
        message = str(detail.get("message") or "")
    elif isinstance(detail, list):
        message = "; ".join(str(one.get("msg", "")) for one in detail[:3] if isinstance(one, dict))
    if _CODE.fullmatch(code):
        text += f" ({code})"
    return f"{text}: {shown(message, 300)}" if repeat and message else text
