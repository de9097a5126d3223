"""Workspace keys: made, unwrapped and kept for a while, so that a mint asks no key service.

* One unwrap at a time for a key: a hundred requests that miss together make one call, and a caller
  that goes away cancels it for nobody else. A call is bounded by a deadline.
* A cached key is fresh for the soft TTL. Then it is unwrapped again behind the next request, which
  does not wait: the same wrapped bytes have already been opened once.
* While the key service is away a cached key goes on until the hard TTL, then ``NotReady``.
* A wrapped key that does not fit (tampered with, another workspace's, another root key's) is
  an error at once and empties its place in the cache: that is no outage.
* ``forget`` also holds against an unwrap that is under way.
* Memory, honestly: derived keys are zeroed when the cache and the last request let them go
  (``seal.KeyMaterial``). The unwrapped key is ``bytes`` for a moment, and neither it nor what
  OpenSSL copies can be wiped from Python. No plaintext is ever cached here.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

from msgspec import Struct

from vault.errors import IntegrityError, Misconfigured, NotReady
from vault.kms import KeyInfo, RootKey, WrapContext, Wrapped
from vault.seal import KEY_ID_SIZE, KEY_SIZE, SealingKey

RETRY_AFTER_OUTAGE: Final = 30.0
"""Seconds until a cached key's failed refresh is tried again."""

_WORKSPACE_KEY = "workspace-key"
_Place = tuple[str, bytes]
_Flight = tuple[str, bytes, bytes]
_Answer = TypeVar("_Answer")

Operation = Literal["wrap", "unwrap", "key_info", "health"]
Observe = Callable[[Operation, str, float], None]
"""Is told of each call of the root key: which, how it ended, and how many seconds it took."""


class Degraded(NotReady):
    """The root key is away, and the workspaces whose keys are cached go on without it."""


class StoredKey(Struct, frozen=True):
    """A workspace key as its row holds it."""

    key_id: bytes
    version: int
    wrapped: bytes
    root_key_id: str


class _Entry(Struct):
    key: SealingKey
    wrapped: bytes
    refresh_at: float
    dead_at: float
    paused_until: float


class Keyring:
    """The keys of this deployment's workspaces."""

    def __init__(
        self,
        root: RootKey,
        deployment_id: str,
        *,
        max_workspaces: int = 10_000,
        soft_ttl: float = 600,
        hard_ttl: float = 86_400,
        deadline: float = 5,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if max_workspaces < 1 or not 0 < soft_ttl <= hard_ttl:
            raise ValueError("a keyring holds at least one key, and refreshes it before it dies")
        self.observe: Observe = lambda *_: None
        self._root = root
        self._deployment_id = deployment_id
        self._max_entries = max_workspaces
        self._soft_ttl = soft_ttl
        self._hard_ttl = hard_ttl
        self._deadline = deadline
        self._clock = clock
        self._random = random
        self._entries: OrderedDict[_Place, _Entry] = OrderedDict()
        self._flights: dict[_Flight, asyncio.Task[SealingKey]] = {}
        self._tasks: set[asyncio.Task[SealingKey]] = set()

    async def new_workspace_key(
        self, workspace: str, *, version: int = 1, by: str | None = None
    ) -> StoredKey:
        """Make a key for a workspace; it is in use once its row is committed.

        ``by`` names the root key that wraps in this deployment; without it, the current one does.
        """
        key_id, key = self._random(KEY_ID_SIZE), self._random(KEY_SIZE)
        return await self._wrap_workspace_key(workspace, key_id, version, key, by)

    async def rewrap(self, workspace: str, stored: StoredKey) -> StoredKey:
        """Wrap the same key with the current root key; nothing that it sealed changes."""
        key = await self._unwrap_workspace_key(workspace, stored)
        return await self._wrap_workspace_key(workspace, stored.key_id, stored.version, key)

    async def check(self, workspace: str, stored: StoredKey) -> None:
        """Ask the root key whether it still unwraps these bytes, whatever is cached."""
        await self._unwrap_workspace_key(workspace, stored)

    async def sealing_key(self, workspace: str, stored: StoredKey) -> SealingKey:
        """Return the key that seals and opens this workspace's rows."""
        now = self._clock()
        entry = self._live((workspace, stored.key_id), now)
        if entry is None:
            return await asyncio.shield(self._unwrapped(workspace, stored))
        if now < entry.paused_until:
            return entry.key
        if entry.wrapped != stored.wrapped:
            return await self._after_rewrap(workspace, stored, entry)
        if now >= entry.refresh_at:
            self._unwrapped(workspace, stored)
        return entry.key

    def cached(self, workspace: str, key_id: bytes) -> SealingKey | None:
        """Return a key that needs no look-up; ``None`` also when it is time to ask again."""
        now = self._clock()
        entry = self._live((workspace, key_id), now)
        if entry is None or (now >= entry.refresh_at and now >= entry.paused_until):
            return None
        return entry.key

    def cached_workspaces(self) -> list[str]:
        """Whose keys are cached, the latest used first: so many that there is room for a second."""
        latest = dict.fromkeys(workspace for workspace, _ in reversed(self._entries))
        return list(latest)[: self._max_entries // 2]

    def forget(self, workspace: str) -> None:
        """Drop a workspace's keys, also those that are just being unwrapped."""
        for place in [place for place in self._entries if place[0] == workspace]:
            del self._entries[place]
        for flight in [flight for flight in self._flights if flight[0] == workspace]:
            del self._flights[flight]

    async def wrap_deployment_secret(
        self, purpose: str, secret: bytes, by: str | None = None
    ) -> Wrapped:
        """Wrap what belongs to no workspace: the pepper of the bearers, for example."""
        context = self._secret_context(purpose)
        return await self._bounded("wrap", self._root.wrap(secret, context, by))

    async def unwrap_deployment_secret(self, purpose: str, wrapped: Wrapped) -> bytes:
        """Unwrap it; another purpose or deployment is an ``IntegrityError``."""
        context = self._secret_context(purpose)
        return await self._bounded("unwrap", self._root.unwrap(wrapped, context))

    async def root_key_info(self) -> KeyInfo:
        """Tell which root key wraps now: rows that name another one are due for ``rewrap``."""
        return await self._bounded("key_info", self._root.key_info())

    async def health(self) -> None:
        """Return if the root key works; raise why it does not. ``Degraded``: much goes on."""
        try:
            await self._bounded("health", self._root.health())
        except NotReady as error:
            if any(self._clock() < entry.dead_at for entry in self._entries.values()):
                raise Degraded(error.message, retry_after=error.retry_after) from None
            raise

    async def close(self) -> None:
        """Stop what is under way and let every key go."""
        tasks = list(self._tasks)
        self._flights.clear()
        self._entries.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _live(self, place: _Place, now: float) -> _Entry | None:
        entry = self._entries.get(place)
        if entry is None:
            return None
        if now >= entry.dead_at:
            del self._entries[place]
            return None
        self._entries.move_to_end(place)
        return entry

    async def _after_rewrap(self, workspace: str, stored: StoredKey, entry: _Entry) -> SealingKey:
        """Open bytes that differ from the ones we know: rewrapped by a rotation, or forged."""
        try:
            return await asyncio.shield(self._unwrapped(workspace, stored))
        except NotReady:
            return entry.key

    def _unwrapped(self, workspace: str, stored: StoredKey) -> asyncio.Task[SealingKey]:
        """Join the unwrapping of these bytes, or begin it."""
        flight = (workspace, stored.key_id, stored.wrapped)
        task = self._flights.get(flight)
        if task is None:
            task = asyncio.create_task(self._unwrap(flight, stored))
            self._flights[flight] = task
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._landed(flight, done))
        return task

    def _landed(self, flight: _Flight, task: asyncio.Task[SealingKey]) -> None:
        self._tasks.discard(task)
        if self._flights.get(flight) is task:
            del self._flights[flight]
        if not task.cancelled():
            task.exception()  # nobody waits for a refresh, and asyncio would complain

    async def _unwrap(self, flight: _Flight, stored: StoredKey) -> SealingKey:
        workspace, key_id, _ = flight
        place = (workspace, key_id)
        try:
            unwrapped = await self._unwrap_workspace_key(workspace, stored)
        except NotReady:
            self._pause(place)
            raise
        except (IntegrityError, Misconfigured):
            self._entries.pop(place, None)
            raise
        key = SealingKey.from_workspace_key(key_id, unwrapped)
        if self._flights.get(flight) is asyncio.current_task():  # else it was forgotten meanwhile
            self._remember(place, stored, key)
        return key

    def _remember(self, place: _Place, stored: StoredKey, key: SealingKey) -> None:
        now = self._clock()
        self._entries[place] = _Entry(
            key=key,
            wrapped=stored.wrapped,
            refresh_at=now + self._soft_ttl,
            dead_at=now + self._hard_ttl,
            paused_until=now,
        )
        self._entries.move_to_end(place)
        while len(self._entries) > self._max_entries or self._oldest().dead_at <= now:
            self._entries.popitem(last=False)

    def _oldest(self) -> _Entry:
        return next(iter(self._entries.values()))

    def _pause(self, place: _Place) -> None:
        entry = self._entries.get(place)
        if entry is not None:
            entry.paused_until = self._clock() + RETRY_AFTER_OUTAGE

    async def _wrap_workspace_key(
        self, workspace: str, key_id: bytes, version: int, key: bytes, by: str | None = None
    ) -> StoredKey:
        context = self._key_context(workspace, key_id)
        wrapped = await self._bounded("wrap", self._root.wrap(key, context, by))
        return StoredKey(
            key_id=key_id,
            version=version,
            wrapped=wrapped.blob,
            root_key_id=wrapped.root_key_id,
        )

    async def _unwrap_workspace_key(self, workspace: str, stored: StoredKey) -> bytes:
        context = self._key_context(workspace, stored.key_id)
        wrapped = Wrapped(stored.wrapped, stored.root_key_id)
        key = await self._bounded("unwrap", self._root.unwrap(wrapped, context))
        if len(key) != KEY_SIZE or len(stored.key_id) != KEY_ID_SIZE:
            raise IntegrityError("What was unwrapped is not a workspace key.")
        return key

    def _key_context(self, workspace: str, key_id: bytes) -> WrapContext:
        return WrapContext(
            deployment_id=self._deployment_id,
            workspace=workspace,
            key_id=key_id.hex(),
            purpose=_WORKSPACE_KEY,
        )

    def _secret_context(self, purpose: str) -> WrapContext:
        return WrapContext(deployment_id=self._deployment_id, purpose=purpose)

    async def _bounded(self, operation: Operation, call: Awaitable[_Answer]) -> _Answer:
        began, outcome = time.monotonic(), "failed"
        try:
            async with asyncio.timeout(self._deadline):
                answer = await call
            outcome = "ok"
        except OSError as error:  # TimeoutError is one
            outcome = "away"
            raise NotReady("The root key service does not answer.") from error
        except NotReady:
            outcome = "away"
            raise
        else:
            return answer
        finally:
            self.observe(operation, outcome, time.monotonic() - began)
