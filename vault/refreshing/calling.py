"""The one call of a claim: from what was stored, over the provider, to what became of its answer.

* A call belongs to nobody who waits. Whatever comes in between, its claim ends: with new tokens,
  with a failure, or unused.
* Whoever slept between claim and call sends nothing, and gives the claim back.
* Mostly all is at hand: the key, a connection to the provider, and nobody traces. Then a call is
  two plain steps, to send and to read, and no task (the short way). Else it is a task (the long
  way): the short way steps aside before anything has been sent, and leaves it what it has opened.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Final, Protocol, final

import structlog
from msgspec.structs import replace

from vault.dialogue import Dialogue
from vault.egress import Errand, Reply
from vault.errors import VaultError
from vault.lifecycle.takeover import SEND_WITHIN
from vault.oauth.app import TokenSet
from vault.oauth.reading import renewed
from vault.oauth.replies import Failure, NoToken, failure_of
from vault.oauth.typed import as_given
from vault.refreshing.keeping import Keeper, Kept
from vault.refreshing.lane import Lane
from vault.refreshing.observing import Observe, nobody, observed
from vault.refreshing.page import Ending, Granted, Outlet, Place, Settled, unused
from vault.seal import Context as SealContext
from vault.seal import SealingKey
from vault.store import Store
from vault.store import connections as connection_rows
from vault.store.owners import opened_under
from vault.tracing import UNTRACED

# Whoever has slept for longer since the claim sends nothing: others may have taken over.
SEND_WITHIN_SECONDS: Final = SEND_WITHIN.total_seconds()

_log: Final = structlog.get_logger("keyturn.refreshing")


class Wish(Protocol):
    """Whom a call is made for. ``context``: what whoever began it had in his context."""

    context: Context

    @property
    def waited_for(self) -> bool:
        """Does somebody wait for it?"""
        ...


@final
class Call:
    """One claim's call. ``end``: how it ended, once it has; ``then`` is told what became of that.

    ``name``: of the further token that is asked for, where it is not the main one.
    """

    __slots__ = (
        "began",
        "end",
        "errand",
        "granted",
        "kept",
        "lane",
        "name",
        "outlet",
        "ready",
        "seconds",
        "task",
        "then",
        "wish",
    )

    ready: Ending  # all that the call needs, as the ending of one that is not made
    end: Ending

    def __init__(
        self,
        lane: Lane,
        granted: Granted,
        outlet: Outlet,
        wish: Wish,
        then: "Callable[[Call, Settled | BaseException], None]",
        name: str | None = None,
    ) -> None:
        self.lane = lane
        self.granted = granted
        self.outlet = outlet
        self.wish = wish
        self.then = then
        self.name = name
        self.began = self.seconds = 0.0
        # What is under way of it: one of these at a time.
        self.errand: Errand | None = None
        self.task: asyncio.Task[None] | None = None
        self.kept: Kept | None = None

    @property
    def slept(self) -> bool:
        """Is it too late to send anything?"""
        return time.monotonic() - self.granted.begun > SEND_WITHIN_SECONDS


class Caller:
    """All calls that this process makes."""

    def __init__(
        self,
        store: Store,
        dialogue: Dialogue,
        keeper: Keeper,
        put_off: Callable[[Place, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._dialogue = dialogue
        self._keeper = keeper
        self._put_off = put_off
        self.observe: Observe = nobody

    def begin(self, call: Call) -> None:
        """Make a call."""
        call.lane.calls += 1
        ready = _ready_at_once(call)
        if ready is None or not self._sent_at_once(call, ready):
            loop = asyncio.get_running_loop()
            call.task = loop.create_task(self._made(call, ready), context=call.wish.context)

    def cancel(self, call: Call) -> None:
        """Wait for it no longer; an answer that is there, and not yet durable, stays."""
        if call.kept is not None:
            self._keeper.cancel(call.kept)
        elif call.errand is not None:
            call.errand.give_up()
            call.errand = None
            call.lane.calls -= 1
            call.then(call, asyncio.CancelledError())
        elif call.task is not None:  # once it has begun, so that it can tell of its end
            asyncio.get_running_loop().call_soon(call.task.cancel)

    # The short way

    def _sent_at_once(self, call: Call, ready: Ending) -> bool:
        """Build and send, if nothing of it has to be waited for, and nothing is wrong."""
        if self._dialogue.tracing is not UNTRACED or call.name is not None or call.slept:
            return False
        try:
            call.ready = ready
            call.began = time.monotonic()
            call.errand = self._dialogue.begin_refresh(
                ready.outlet.app,
                _tokens(ready),
                now=call.granted.claim.at,
                then=lambda reply: self._answered(call, reply),
            )
        except Exception:  # noqa: BLE001 - nothing was sent: the long way meets it, and says it
            return False
        return call.errand is not None

    def _answered(self, call: Call, reply: Reply | VaultError) -> None:
        call.errand = None
        self._keep(call, self._read(call, reply))

    def _read(self, call: Call, reply: Reply | VaultError) -> Ending:
        """How the call ended."""
        ready = call.ready
        try:
            if isinstance(reply, VaultError):
                return replace(ready, failure=failure_of(reply))
            now = call.granted.claim.at
            return replace(ready, tokens=renewed(ready.outlet.app, reply, _tokens(ready), now=now))
        except Exception as error:  # noqa: BLE001 - the provider has acted, whatever it is
            return call.wish.context.copy().run(_failed, ready, error)

    # The long way

    async def _made(self, call: Call, ready: Ending | None) -> None:
        try:
            ready = call.ready = ready or await self._opened(call)
            call.began = time.monotonic()
            provider = call.outlet.app.provider.id
            with self._dialogue.tracing.span("refresh", provider=provider) as span:
                end = await self._ended(call, ready)
                span.note("outcome", observed(end, call.granted, 0.0).outcome)
        except BaseException as error:  # noqa: BLE001 - it is told
            call.lane.calls -= 1
            call.then(call, error)
        else:
            self._keep(call, end)

    async def _opened(self, call: Call) -> Ending:
        """What the call needs; what cannot be opened is not called with."""
        granted, outlet, stored = call.granted, call.outlet, call.granted.refreshable
        try:
            opened = await self._store.open_and_key(
                outlet.sealing,
                stored.user_id,
                stored.user_key,
                _context(call.lane.place, granted),
                stored.sealed,
            )
            return _ready(granted, outlet, *opened)
        except BaseException:
            await self._keeper.kept(call.lane, unused(granted, outlet))
            await self._put_off(call.lane.place, stored.connection_id)
            raise

    async def _ended(self, call: Call, ready: Ending) -> Ending:
        """How the call ends. Nothing is raised from here on."""
        if call.slept:
            return ready
        try:
            now = call.granted.claim.at
            tokens = await self._dialogue.refresh(
                ready.outlet.app, _tokens(ready), now=now, name=call.name
            )
        except Exception as error:  # noqa: BLE001 - the provider may have acted: nobody knows
            return _failed(ready, error)
        return replace(ready, tokens=tokens)

    # Both

    def _keep(self, call: Call, end: Ending) -> None:
        """Nothing is done with how it ended before that is durable."""
        call.seconds = time.monotonic() - call.began
        call.lane.calls -= 1
        call.end = end
        kept = end
        if call.name is not None and end.tokens is None:
            # The consent is judged by its main token alone.
            kept = replace(end, failure=None, unread=None)
        call.kept = self._keeper.keep(
            call.lane,
            kept,
            lambda settled: self._stored(call, settled),
            context=call.wish.context,
            # If nobody waits for it, and others will end soon, one transaction stores them all.
            hurry=not call.lane.calls or call.wish.waited_for,
        )

    def _stored(self, call: Call, settled: Settled | BaseException) -> None:
        call.kept = None
        call.then(call, settled)
        if self.observe is not nobody and not isinstance(settled, BaseException):
            self.observe(observed(call.end, call.granted, call.seconds))


def _context(place: Place, granted: Granted) -> SealContext:
    stored = granted.refreshable
    return connection_rows.tokens_context(
        place.workspace, stored.connection_id, stored.generation, place.environment
    )


def _ready_at_once(call: Call) -> Ending | None:
    """What the call needs, if the key that opens it is at hand, and nothing is wrong."""
    granted, outlet, stored = call.granted, call.outlet, call.granted.refreshable
    try:
        opened = opened_under(
            outlet.sealing.key,
            outlet.sealing.workspace,
            stored.user_id,
            stored.user_key,
            _context(call.lane.place, granted),
            stored.sealed,
        )
        return None if opened is None else _ready(granted, outlet, *opened)
    except Exception:  # noqa: BLE001 - the long way meets it, and says it
        return None


def _ready(granted: Granted, outlet: Outlet, opened: bytes, owner_key: SealingKey) -> Ending:
    """What the call needs, in what becomes of it."""
    held = connection_rows.held_from(opened)
    app = as_given(outlet.app, held.tokens, held.client)
    if app is not outlet.app:
        outlet = replace(outlet, app=app)
    return unused(granted, outlet, held, owner_key)


def _tokens(ready: Ending) -> TokenSet:
    assert ready.held is not None
    return ready.held.tokens


def _failed(ready: Ending, error: Exception) -> Ending:
    """How a call ended of which there are no tokens."""
    if isinstance(error, NoToken):
        return replace(ready, failure=error.failure, unread=error.unread)
    if isinstance(error, VaultError):
        return replace(ready, failure=failure_of(error))
    _log.error("refresh_broke", connection=ready.connection_id, exc_info=error)
    failure = Failure(outcome="ambiguous", detail="The answer could not be worked on.")
    return replace(ready, failure=failure)
