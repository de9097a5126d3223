"""A root key at a service: a library that hangs, fails or lies in wait holds up nobody else."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from support.root_keys import CONTEXT, KEY, RootKeyContract, assert_bare

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.kms import KeyInfo, RootKey, RootKeyRefused, WrapContext, Wrapped
from vault.kms.remote import (
    HEALTHY_FOR,
    OUTAGE,
    UNHEALTHY_FOR,
    RemoteRootKey,
    options,
)


class Library:
    """A backend in memory, whose every call first does as it is told."""

    service = "The pretend service"

    def __init__(self) -> None:
        self.first: Callable[[], None] = lambda: None
        self.calls = 0
        self.threads: set[str] = set()
        self._boxes: dict[bytes, bytes] = {}

    def owns(self, root_key_id: str) -> bool:
        return root_key_id == "pretend"

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        self._begin(context, by)
        handle = str(len(self._boxes)).zfill(8).encode()
        self._boxes[handle] = bound
        return Wrapped(handle, "pretend")

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        self._begin(context)
        if wrapped.blob not in self._boxes:
            raise IntegrityError
        return self._boxes[wrapped.blob]

    def key_info(self) -> KeyInfo:
        self._begin()
        return KeyInfo("pretend", ("pretend",))

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, PermissionError):
            return RootKeyRefused("The pretend service refuses us.")
        return None

    def spoil(self) -> None:
        """Give back other bytes than it was given."""
        self._boxes = dict.fromkeys(self._boxes, b"x" * 64)

    def _begin(self, *_: object) -> None:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.first()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def library() -> Library:
    return Library()


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


class TestTheContract(RootKeyContract):
    @pytest.fixture
    def root(self, library: Library) -> RootKey:
        return RemoteRootKey(library)

    async def test_a_changed_blob_is_refused(self, root: RootKey) -> None:
        """A handle that is another's is caught by what is bound to it, not by the service."""
        first = await root.wrap(KEY, CONTEXT)
        other = await root.wrap(KEY, WrapContext(deployment_id="dep_1", purpose="pepper"))
        assert first.blob != other.blob
        with pytest.raises(IntegrityError):
            await root.unwrap(other, CONTEXT)


class TestWaiting:
    async def test_the_event_loop_goes_on_while_the_library_blocks(self, library: Library) -> None:
        release, root = threading.Event(), RemoteRootKey(library, deadline=60)
        library.first = lambda: void(release.wait(60))
        task = asyncio.create_task(root.wrap(KEY, CONTEXT))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not task.done()
        release.set()
        await task
        assert threading.main_thread().name not in library.threads

    async def test_a_call_over_its_deadline_is_not_ready(self, library: Library) -> None:
        release = threading.Event()
        library.first = lambda: void(release.wait(60))
        root = RemoteRootKey(library, deadline=0.1)
        with pytest.raises(NotReady, match="did not answer in time") as caught:
            await root.wrap(KEY, CONTEXT)
        assert_bare(caught.value)
        release.set()

    async def test_what_gave_up_waiting_for_a_thread_is_never_begun(self, library: Library) -> None:
        release = threading.Event()
        library.first = lambda: void(release.wait(60))
        root = RemoteRootKey(library, threads=2, deadline=60)
        hanging = [asyncio.create_task(root.wrap(KEY, CONTEXT)) for _ in range(2)]
        async with asyncio.timeout(60):
            while library.calls < 2:  # noqa: ASYNC110 - a thread tells nobody
                await asyncio.sleep(0.01)
        root._deadline = 0.05  # noqa: SLF001 - for those that come now
        calls = [root.wrap(KEY, CONTEXT) for _ in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, NotReady) for one in results)
        root._deadline = 60  # noqa: SLF001 - as above
        library.first = lambda: None
        release.set()
        await asyncio.gather(*hanging, root.wrap(KEY, CONTEXT))
        assert library.calls == 3  # two hung, and the last

    async def test_a_burst_is_worked_off_by_few_threads(self, library: Library) -> None:
        most, running, lock = 0, 0, threading.Lock()
        together = threading.Barrier(3)  # who is alone waits for two more

        def count() -> None:
            nonlocal most, running
            with lock:
                running += 1
                most = max(most, running)
            together.wait(60)
            with lock:
                running -= 1

        library.first = count
        root = RemoteRootKey(library, threads=3, deadline=60)
        await asyncio.gather(*(root.wrap(KEY, CONTEXT) for _ in range(60)))
        assert (library.calls, most) == (60, 3)

    async def test_a_caller_that_goes_away_breaks_nothing(self, library: Library) -> None:
        library.first = lambda: time.sleep(0.05)
        root = RemoteRootKey(library, threads=1)
        tasks = [asyncio.create_task(root.wrap(KEY, CONTEXT)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in tasks[:2]:
            task.cancel()
        assert (await tasks[2]).root_key_id == "pretend"

    def test_a_hanging_library_does_not_hold_up_the_end_of_the_process(
        self,
    ) -> None:
        code = """
import asyncio, time
from vault.errors import NotReady
from vault.kms import WrapContext
from vault.kms.remote import RemoteRootKey

class Hanging:
    service = "x"
    def wrap(self, bound, context, by):
        time.sleep(3600)

async def main():
    root = RemoteRootKey(Hanging(), deadline=0.1)
    try:
        await root.wrap(b"", WrapContext(deployment_id="d", purpose="p"))
    except NotReady:
        print("not ready")

asyncio.run(main())
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, timeout=120
        )
        assert (done.stdout, done.stderr) == (b"not ready\n", b"")


def void(_: object) -> None:
    """Take what a lambda must not return."""


class TestErrors:
    async def test_a_librarys_text_never_comes_out(self, library: Library) -> None:
        library.first = failing(RuntimeError("hunter2"))
        with pytest.raises(NotReady) as caught:
            await RemoteRootKey(library).wrap(KEY, CONTEXT)
        assert caught.value.message == "The pretend service cannot be asked (RuntimeError)."
        assert_bare(caught.value)

    async def test_what_the_backend_explains_is_said(self, library: Library) -> None:
        library.first = failing(PermissionError("hunter2"))
        with pytest.raises(RootKeyRefused, match="refuses us") as caught:
            await RemoteRootKey(library).wrap(KEY, CONTEXT)
        assert_bare(caught.value)

    async def test_our_own_errors_pass(self, library: Library) -> None:
        library.first = failing(Misconfigured("Act."))
        with pytest.raises(Misconfigured, match=r"Act\."):
            await RemoteRootKey(library).key_info()


class TestHealth:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    async def test_it_wraps_and_unwraps(self, library: Library, clock: Clock) -> None:
        await RemoteRootKey(library, clock=clock).health()
        assert library.calls == 2

    async def test_a_flood_of_checks_asks_once_in_a_while(
        self, library: Library, clock: Clock
    ) -> None:
        root = RemoteRootKey(library, clock=clock)
        await asyncio.gather(*(root.health() for _ in range(50)))
        await root.health()
        assert library.calls == 2
        clock.now += HEALTHY_FOR
        await root.health()
        assert library.calls == 4

    async def test_an_outage_is_told_with_what_it_means_and_ends_by_itself(
        self, library: Library, clock: Clock
    ) -> None:
        root = RemoteRootKey(library, clock=clock)
        library.first = failing(OSError())
        for _ in range(3):
            with pytest.raises(NotReady) as caught:
                await root.health()
            assert caught.value.message.endswith(OUTAGE)
        assert library.calls == 1
        library.first = lambda: None
        clock.now += UNHEALTHY_FOR
        await root.health()

    async def test_a_refusal_stays_a_refusal(self, library: Library, clock: Clock) -> None:
        library.first = failing(PermissionError())
        with pytest.raises(RootKeyRefused, match="refuses us"):
            await RemoteRootKey(library, clock=clock).health()

    async def test_a_service_that_gives_back_something_else_is_unwell(
        self, library: Library, clock: Clock
    ) -> None:
        root = RemoteRootKey(library, clock=clock)
        library.first = library.spoil
        with pytest.raises(IntegrityError):
            await root.health()

    async def test_who_gives_up_spoils_it_for_nobody(self, library: Library, clock: Clock) -> None:
        library.first = lambda: time.sleep(0.05)
        root = RemoteRootKey(library, clock=clock)
        impatient, patient = (asyncio.create_task(root.health()) for _ in range(2))
        await asyncio.sleep(0.01)
        impatient.cancel()
        await patient
        assert library.calls == 2

    def test_it_may_be_asked_in_one_loop_after_another(
        self, library: Library, clock: Clock
    ) -> None:
        root = RemoteRootKey(library, clock=clock)
        for _ in range(2):
            asyncio.run(root.health())
            clock.now += HEALTHY_FOR
        assert library.calls == 4


class TestOptions:
    def test_each_is_known_and_given_once(self) -> None:
        assert options("a=1&b=%2Fx", frozenset("ab"), "") == {"a": "1", "b": "/x"}
        assert options("", frozenset("ab"), "") == {}

    @pytest.mark.parametrize("query", ["c=1", "a=1&a=2", "a=", "a", "&".join(["a=1"] * 20)])
    def test_anything_else_is_a_mistake(self, query: str) -> None:
        with pytest.raises(Misconfigured, match="Like this"):
            options(query, frozenset("ab"), "Like this.")
