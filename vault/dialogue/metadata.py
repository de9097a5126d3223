"""What providers publish about themselves, fetched and remembered: endpoints, keys, registrations.

* A document serves for ``FRESH`` seconds. If it cannot be fetched again, endpoints that were once
  read serve for ``STALE`` seconds more; keys do not.
* Keys are fetched again for a token whose key is not among them, at most once in ``PAUSE`` seconds
  an address; likewise for a token that names no key.
* Whoever asks while a document is on its way waits for that one; a failure is told to them all.
* It remembers ``MAX_KEPT`` documents, and nothing that somebody sent us in a request.
* Every address in a document that we would call is one that may be called.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from vault.egress import Egress, Request
from vault.errors import NotReady, VaultError
from vault.oauth import discovery, id_token
from vault.oauth.app import App, Endpoints
from vault.oauth.discovery import Kind, MetadataRefused, Registered, Resource
from vault.oauth.filling import filling
from vault.oauth.keys import CURVES
from vault.providers.schema import Oidc, Provider
from vault.secret import Secret

FRESH: Final = 3_600.0  # seconds
STALE: Final = 86_400.0
PAUSE: Final = 60.0
MAX_KEPT: Final = 256
MAX_KEYS: Final = 64
MAX_KEY: Final = 4_096  # characters: the number of an RSA key of 8192 bits has 1366

OK: Final = 200
NOT_NOW: Final = frozenset({408, 429})
SERVER_ERROR: Final = 500

_KEY_FIELDS: Final = ("kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "issuer", "key_ops")

T = TypeVar("T")
Jwks = Mapping[str, Any]


class Metadata:
    """What providers publish. Make one a process."""

    def __init__(self, egress: Egress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._egress = egress
        self._endpoints: _Kept[Endpoints] = _Kept(clock)
        self._keys: _Kept[Jwks] = _Kept(clock)

    async def endpoints(
        self, provider: Provider, values: Mapping[str, str | Secret]
    ) -> Endpoints | None:
        """What discovery finds for this provider; ``None`` where its file says everything."""
        if provider.discovery is None:
            return None
        kind = provider.discovery.kind
        of = filling(App(provider=provider, values=values)).url(provider.discovery.of)
        if of is None:
            raise MetadataRefused("This provider's address is not known.")
        return await self._found(kind, of)

    async def keys(self, jwks_url: str, *, kid: str | None = None) -> Jwks:
        """The keys at this address; fetched again where ``kid`` is not among them."""

        def fits(keys: Jwks) -> bool:
            return kid is not None and id_token.names_key(keys, kid)

        return await self._keys.get(jwks_url, lambda: self._fetch_keys(jwks_url), fits=fits)

    async def keys_of(
        self, token: Secret, *, oidc: Oidc, issuer: str, jwks_url: str | None
    ) -> Jwks:
        """The keys that this ID token may be signed with, wherever they are published.

        ``issuer`` and ``jwks_url`` are the file's, filled; without an address of the keys, it is
        looked up at the issuer.
        """
        said = id_token.unverified(token)
        if said.algorithm not in oidc.algorithms or said.algorithm not in CURVES:
            return {"keys": []}  # a shared secret signs it, or it will be refused anyway
        if jwks_url is None:
            found = await self._found("openid", id_token.issuer_of(issuer, said.tid))
            jwks_url = found.jwks_url
        if jwks_url is None:
            raise MetadataRefused("The issuer does not say where its keys are.")
        return await self.keys(jwks_url, kid=said.kid)

    async def register(
        self,
        endpoints: Endpoints,
        *,
        redirect_uri: str,
        client_name: str,
        scopes: Sequence[str] = (),
    ) -> Registered:
        """Have a server make a client for us (RFC 7591). Not repeated: each call makes another."""
        request = discovery.registration_request(
            endpoints, redirect_uri=redirect_uri, client_name=client_name, scopes=scopes
        )
        reply = await self._egress.call("provider", request)
        return discovery.registered(reply, redirect_uri=redirect_uri)

    # Endpoints

    async def _found(self, kind: Kind, of: str) -> Endpoints:
        async def fetch() -> Endpoints:
            if kind == "mcp":
                return await self._behind(of)
            return await self._first(kind, of, None)

        return await self._endpoints.get(f"{kind} {of}", fetch, stale=STALE)

    async def _behind(self, server_url: str) -> Endpoints:
        """The authorization server of an MCP server."""
        resource = await self._resource(server_url)
        if resource is None:
            # Servers older than RFC 9728: they are their own authorization server.
            return await self._first("mcp", discovery.origin_of(server_url), server_url)
        refused: VaultError = MetadataRefused(
            "The resource's authorization server has no metadata."
        )
        for issuer in resource.servers:
            try:
                return await self._first("mcp", issuer, resource.resource)
            except VaultError as error:
                refused = error
        raise refused

    async def _resource(self, server_url: str) -> Resource | None:
        said = await self._said_by(server_url)
        for url in (said,) if said else discovery.resource_urls(server_url):
            if (body := await self._document(url)) is not None:
                return discovery.resource_in(body, server_url=server_url)
        return None

    async def _said_by(self, server_url: str) -> str | None:
        """What the server says when somebody comes without a token."""
        accept = (("Accept", "application/json, text/event-stream"),)
        request = Request(
            method="GET",
            url=server_url,
            headers=accept,
            timeout=discovery.TIMEOUTS,
            max_bytes=discovery.MAX_DOCUMENT,
        )
        try:
            reply = await self._egress.call("provider", request)
        except VaultError:
            return None  # some answer with a stream that never ends; the usual places remain
        return discovery.resource_url_in(reply, server_url=server_url)

    async def _first(self, kind: Kind, issuer: str, resource: str | None) -> Endpoints:
        for url in discovery.document_urls(kind, issuer):
            if (body := await self._document(url)) is not None:
                found = discovery.endpoints_in(
                    body, kind=kind, url=url, issuer=issuer, resource=resource
                )
                for called in discovery.called(found):
                    self._egress.vet_url("provider", called)
                return found
        raise MetadataRefused("The server publishes no metadata at the usual place.")

    async def _document(self, url: str) -> bytes | None:
        """What stands there; ``None`` for anything but a document, such as a page for people."""
        reply = await self._egress.call("provider", discovery.document_request(url))
        if reply.status in NOT_NOW or reply.status >= SERVER_ERROR:
            raise MetadataRefused(f"The server answered {reply.status} for its metadata.")
        is_there = reply.status == OK and discovery.is_document(reply.body)
        return reply.body if is_there else None

    # Keys

    async def _fetch_keys(self, url: str) -> Jwks:
        body = await self._document(url)
        try:
            found = json.loads(body or b"")
            keys = [_reduced(one) for one in found["keys"] if isinstance(one, dict)]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise MetadataRefused("The issuer's keys cannot be read.") from None
        return {"keys": [key for key in keys if len(str(key)) <= MAX_KEY][:MAX_KEYS]}


def _reduced(jwk: Mapping[str, Any]) -> dict[str, Any]:
    """What verifies of a public key, so that what is remembered stays small."""
    return {name: jwk[name] for name in _KEY_FIELDS if name in jwk}


class _Copy(Generic[T]):
    """A document as it was at some time, and when it was last asked for."""

    __slots__ = ("at", "tried_at", "value")

    def __init__(self, value: T, at: float) -> None:
        self.value = value
        self.at = at
        self.tried_at = at


class _Kept(Generic[T]):
    """Documents by their address, each fetched once for all who wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._copies: OrderedDict[str, _Copy[T]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[T]] = {}

    async def get(
        self,
        name: str,
        fetch: Callable[[], Coroutine[Any, Any, T]],
        *,
        fits: Callable[[T], bool] = lambda _: True,
        stale: float = 0.0,
    ) -> T:
        """The document; fetched if there is none, if it is old, or, after a pause, to fit."""
        copy = self._copies.get(name)
        if copy is None:
            return await self._awaited(name, fetch)
        self._copies.move_to_end(name)
        now = self._clock()
        fresh, serves = now - copy.at < FRESH, now - copy.at < FRESH + stale
        tried = now - copy.tried_at < PAUSE and name not in self._flights
        if (fresh and fits(copy.value)) or (serves and tried):
            return copy.value
        copy.tried_at = now
        try:
            return await self._awaited(name, fetch)
        except VaultError:
            if serves:
                return copy.value
            raise

    async def _awaited(self, name: str, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the one fetch. Who stops waiting takes it from nobody else."""
        if name not in self._flights:
            self._flights[name] = asyncio.create_task(self._fetched(name, fetch()))
            self._flights[name].add_done_callback(lambda task: self._landed(name, task))
        task = self._flights[name]
        await asyncio.wait({task})
        if task.cancelled():
            raise NotReady("The service is shutting down.")
        return task.result()

    def _landed(self, name: str, task: asyncio.Task[T]) -> None:
        del self._flights[name]
        if not task.cancelled():
            task.exception()  # all who waited may be gone, and then nobody has to hear of it

    async def _fetched(self, name: str, fetching: Coroutine[Any, Any, T]) -> T:
        value = await fetching
        self._copies[name] = _Copy(value, self._clock())
        self._copies.move_to_end(name)
        while len(self._copies) > MAX_KEPT:
            self._copies.popitem(last=False)
        return value
