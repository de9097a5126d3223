"""What root keys at a service share: threads for a library that blocks, deadlines, a probe.

* A library's call runs in one of a few threads that belong to this root key alone: a service that
  hangs holds up neither the event loop nor anybody else's threads, nor the end of the process.
* A call over its deadline is ``NotReady``. What then still waits for a thread is never begun; what
  runs is left to the library's own timeouts.
* Whatever a library raises becomes one of our errors, without its text, its cause or its context:
  those hold addresses, request bodies and, in the frames, keys.
* A health check wraps and unwraps a probe. One runs at a time and its answer holds for a few
  seconds, because ``/readyz`` is open to anybody and key services charge by the call.

A wrapped key, for every backend::

    01 | what the backend made of the bound key
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import parse_qs

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.kms import KeyInfo, RootKeyUnknown, WrapContext, Wrapped, bind, unbind

DEADLINE: Final = 4.0
"""Seconds for one call; under the keyring's, so that the sentence is ours."""
HEALTH_DEADLINE: Final = 2.5
"""Seconds for a probe; under those of ``/readyz``."""
HEALTHY_FOR: Final = 10.0
"""Seconds that a good answer holds."""
UNHEALTHY_FOR: Final = 2.0
"""Seconds that a bad one does."""
RETRY_AFTER: Final = 5
OUTAGE: Final = "Workspaces whose keys are cached go on; nothing new opens."

_VERSION = b"\x01"
_PROBE = b"keyturn/health-probe/1"
_PROBE_CONTEXT = WrapContext(deployment_id="any", purpose="health")
_Answer = TypeVar("_Answer")


class Backend(Protocol):
    """A key service, by a library that blocks. Every method but ``owns`` may."""

    service: str
    """What people call it."""

    def owns(self, root_key_id: str) -> bool:
        """Is this the id of a key that is configured here? Asks nobody."""
        ...

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        """Wrap a bound key, and bind the context by the service's own means too.

        ``by`` is an id that ``owns`` is true of; only a service with several keys has to look.
        """
        ...

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        """Return the bound key. The id is one that ``owns`` is true of."""
        ...

    def key_info(self) -> KeyInfo:
        """Tell which keys there are."""
        ...

    def explain(self, error: Exception) -> VaultError | None:
        """Say what a library's error means to us; ``None``: something else."""
        ...


class RemoteRootKey:
    """A root key that a service holds."""

    def __init__(
        self,
        backend: Backend,
        *,
        threads: int = 4,
        deadline: float = DEADLINE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._threads = _Threads(threads)
        self._deadline = deadline
        self._clock = clock
        self._probe: asyncio.Task[None] | None = None
        self._known_until = clock()
        self._problem: VaultError | None = None

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        """Wrap with the current key, or with the one that ``by`` names."""
        if by is not None and not self._backend.owns(by):
            raise RootKeyUnknown
        return await self._wrap(key, context, self._deadline, by)

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        """Unwrap with the key that the id names, if that is one of ours."""
        return await self._unwrap(wrapped, context, self._deadline)

    async def key_info(self) -> KeyInfo:
        """Ask the service which keys there are."""
        return await self._ask(self._backend.key_info, self._deadline)

    async def health(self) -> None:
        """Return if a probe was wrapped and unwrapped a moment ago, or is now."""
        if self._clock() >= self._known_until:
            await self._probed()
        if self._problem is not None:
            raise _again(self._problem)

    async def _probed(self) -> None:
        task = self._probe
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._probe = asyncio.create_task(self._look())
        await asyncio.shield(task)

    async def _look(self) -> None:
        """Remember how it went. Nothing is raised: who began this may have gone."""
        until = asyncio.get_running_loop().time() + HEALTH_DEADLINE
        try:
            made = await self._wrap(_PROBE, _PROBE_CONTEXT, HEALTH_DEADLINE)
            left = until - asyncio.get_running_loop().time()
            await self._unwrap(made, _PROBE_CONTEXT, left)
        except NotReady as error:
            self._problem = type(error)(f"{error.message} {OUTAGE}", retry_after=error.retry_after)
        except VaultError as error:
            self._problem = error
        else:
            self._problem = None
        self._known_until = self._clock() + (UNHEALTHY_FOR if self._problem else HEALTHY_FOR)

    async def _wrap(
        self, key: bytes, context: WrapContext, seconds: float, by: str | None = None
    ) -> Wrapped:
        bound = bind(key, context)
        made = await self._ask(partial(self._backend.wrap, bound, context, by), seconds)
        return Wrapped(_VERSION + made.blob, made.root_key_id)

    async def _unwrap(self, wrapped: Wrapped, context: WrapContext, seconds: float) -> bytes:
        if not self._backend.owns(wrapped.root_key_id):
            raise RootKeyUnknown
        if wrapped.blob[:1] != _VERSION or len(wrapped.blob) == 1:
            raise IntegrityError("This wrapped key is not in a format that this version knows.")
        inner = Wrapped(wrapped.blob[1:], wrapped.root_key_id)
        bound = await self._ask(partial(self._backend.unwrap, inner, context), seconds)
        return unbind(bound, context)

    async def _ask(self, call: Callable[[], _Answer], seconds: float) -> _Answer:
        answer = self._threads.run(partial(self._explained, call))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            pass
        raise NotReady(f"{self._backend.service} did not answer in time.", retry_after=RETRY_AFTER)

    def _explained(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except VaultError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - a vendor's library may raise anything at all
            problem = self._backend.explain(error) or NotReady(
                f"{self._backend.service} cannot be asked ({type(error).__name__}).",
                retry_after=RETRY_AFTER,
            )
        problem.__cause__ = problem.__context__ = None
        raise problem


class _Threads:
    """A few threads that take turns. They are daemons: none holds up the end of the process."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self, call: Callable[[], _Answer]) -> Future[_Answer]:
        """Have a call made; cancelling the future before a thread took it takes it back."""
        answer: Future[_Answer] = Future()
        self._work.put(partial(_into, answer, call))
        with self._lock:
            if self._free:
                self._free -= 1
                threading.Thread(target=self._serve, name="root key", daemon=True).start()
        return answer

    def _serve(self) -> None:
        while True:
            self._work.get()()  # no name for it: what has been done holds keys


def _into(answer: "Future[_Answer]", call: Callable[[], _Answer]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001 - it is raised where the future is awaited
        answer.set_exception(error)


def _again(problem: VaultError) -> VaultError:
    """Return the same error for another caller: one object would gather everybody's traceback."""
    if isinstance(problem, NotReady):
        return type(problem)(problem.message, retry_after=problem.retry_after)
    return type(problem)(problem.message)


def away(service: str, reason: str) -> NotReady:
    """Nobody answers, or nothing that can be used."""
    return NotReady(f"{service} does not answer ({reason}).", retry_after=RETRY_AFTER)


def options(query: str, allowed: frozenset[str], form: str) -> dict[str, str]:
    """Read a URI's options, each given once; one that nobody knows is a mistake."""
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        found = {"": []}
    if found.keys() - allowed or any(len(given) != 1 or not given[0] for given in found.values()):
        raise Misconfigured(f"The root key's URI has an option that is not known, or twice. {form}")
    return {name: given[0] for name, given in found.items()}
