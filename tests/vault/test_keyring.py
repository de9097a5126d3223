"""Workspace keys: one call for many, a bounded cache, and no outage of ours while one lasts."""

import asyncio
import gc
import hashlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.keyring import RETRY_AFTER_OUTAGE, Keyring, StoredKey
from vault.kms import KeyInfo, RootKey, RootKeyUnknown, WrapContext, Wrapped
from vault.kms.file import FileRootKey, create, new_line
from vault.seal import Context, SealingKey, open_sealed, seal

SOFT, HARD = 600.0, 86_400.0
PLACE = Context(workspace="wsp_ada", table="t", row="r", field="f", generation=1)


class KeyService:
    """A key service in the world outside: it can be away, hang, forget, and it counts."""

    def __init__(self, root: RootKey) -> None:
        self._root = root
        self.asked = 0
        self.failure: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def _answer(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.failure is not None:
            raise self.failure

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        await self._answer()
        return await self._root.wrap(key, context, by)

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        await self._answer()
        return await self._root.unwrap(wrapped, context)

    async def key_info(self) -> KeyInfo:
        await self._answer()
        return await self._root.key_info()

    async def health(self) -> None:
        await self._answer()
        await self._root.health()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    create(tmp_path / "root.key")
    return tmp_path / "root.key"


@pytest.fixture
async def service(key_file: Path) -> KeyService:
    return KeyService(FileRootKey(key_file))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keyring(service: KeyService, clock: Clock) -> AsyncIterator[Keyring]:
    keyring = Keyring(service, "dep_1", deadline=60, clock=clock)
    yield keyring
    await keyring.close()


@pytest.fixture
async def stored(keyring: Keyring, service: KeyService) -> StoredKey:
    stored = await keyring.new_workspace_key("wsp_ada")
    service.asked = 0
    return stored


def forge(stored: StoredKey) -> StoredKey:
    changed = stored.wrapped[:-1] + bytes([stored.wrapped[-1] ^ 1])
    return msgspec.structs.replace(stored, wrapped=changed)


def held_in_memory() -> set[bytes]:
    """The ids of all keys that are alive in this process, wherever."""
    gc.collect()
    return {one.key_id for one in gc.get_objects() if type(one) is SealingKey}


async def settle() -> None:
    """Let what runs behind a request finish."""
    for _ in range(20):
        await asyncio.sleep(0)


class TestMaking:
    async def test_a_new_key_seals_and_opens(self, keyring: Keyring, stored: StoredKey) -> None:
        key = await keyring.sealing_key("wsp_ada", stored)
        assert key.key_id == stored.key_id
        assert open_sealed(key, PLACE, seal(key, PLACE, b"token")) == b"token"

    async def test_another_keyring_opens_what_this_one_sealed(
        self, keyring: Keyring, stored: StoredKey, service: KeyService
    ) -> None:
        sealed = seal(await keyring.sealing_key("wsp_ada", stored), PLACE, b"token")
        other = Keyring(service, "dep_1")
        assert open_sealed(await other.sealing_key("wsp_ada", stored), PLACE, sealed) == b"token"

    async def test_no_two_keys_are_alike(self, keyring: Keyring) -> None:
        made = [await keyring.new_workspace_key("wsp_ada", version=n) for n in range(1, 21)]
        assert len({one.key_id for one in made}) == len({one.wrapped for one in made}) == 20
        assert [one.version for one in made] == list(range(1, 21))
        assert {len(one.key_id) for one in made} == {16}

    async def test_the_key_is_32_random_bytes(self, service: KeyService) -> None:
        asked: list[int] = []

        def random(size: int) -> bytes:
            asked.append(size)
            return hashlib.shake_256(bytes([len(asked)])).digest(size)

        await Keyring(service, "dep_1", random=random).new_workspace_key("wsp_ada")
        assert asked == [16, 32]


class TestBinding:
    @pytest.mark.parametrize("cached", [False, True])
    async def test_another_workspaces_key_is_refused(
        self,
        keyring: Keyring,
        stored: StoredKey,
        cached: bool,  # noqa: FBT001 - a variant
    ) -> None:
        if cached:
            await keyring.sealing_key("wsp_ada", stored)
        with pytest.raises(IntegrityError):
            await keyring.sealing_key("wsp_bob", stored)
        assert keyring.cached("wsp_bob", stored.key_id) is None

    async def test_another_deployments_key_is_refused(
        self, stored: StoredKey, service: KeyService
    ) -> None:
        with pytest.raises(IntegrityError):
            await Keyring(service, "dep_2").sealing_key("wsp_ada", stored)

    @pytest.mark.parametrize("key_id", [bytes(16), b"", b"short", bytes(17)])
    async def test_a_wrapped_key_under_another_id_is_refused(
        self, keyring: Keyring, stored: StoredKey, key_id: bytes
    ) -> None:
        with pytest.raises(IntegrityError):
            await keyring.sealing_key("wsp_ada", msgspec.structs.replace(stored, key_id=key_id))

    async def test_a_deployment_secret_is_no_workspace_key(
        self, keyring: Keyring, stored: StoredKey
    ) -> None:
        wrapped = await keyring.wrap_deployment_secret("workspace-key", bytes(32))
        forged = msgspec.structs.replace(stored, wrapped=wrapped.blob)
        with pytest.raises(IntegrityError):
            await keyring.sealing_key("wsp_ada", forged)
        empty = msgspec.structs.replace(forged, key_id=b"")
        with pytest.raises(IntegrityError):
            await keyring.sealing_key("", empty)

    async def test_a_key_of_another_size_is_refused(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        context = WrapContext(
            deployment_id="dep_1",
            workspace="wsp_ada",
            key_id=stored.key_id.hex(),
            purpose="workspace-key",
        )
        wrapped = await service.wrap(bytes(31), context)
        with pytest.raises(IntegrityError):
            await keyring.sealing_key(
                "wsp_ada", msgspec.structs.replace(stored, wrapped=wrapped.blob)
            )

    async def test_a_forged_row_is_noticed_although_the_key_is_cached(
        self, keyring: Keyring, stored: StoredKey
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        forged = forge(stored)
        with pytest.raises(IntegrityError):
            await keyring.sealing_key("wsp_ada", forged)
        assert keyring.cached("wsp_ada", stored.key_id) is None

    async def test_another_root_key_is_a_typed_error(
        self, stored: StoredKey, tmp_path: Path
    ) -> None:
        create(tmp_path / "other.key")
        with pytest.raises(RootKeyUnknown):
            await Keyring(FileRootKey(tmp_path / "other.key"), "dep_1").sealing_key(
                "wsp_ada", stored
            )


class TestOneCall:
    async def test_a_hundred_misses_make_one_call(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        keys = await asyncio.gather(*(keyring.sealing_key("wsp_ada", stored) for _ in range(100)))
        assert service.asked == 1
        assert len({id(key) for key in keys}) == 1

    async def test_a_hit_makes_none(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        for _ in range(3):
            await keyring.sealing_key("wsp_ada", stored)
        assert keyring.cached("wsp_ada", stored.key_id) is not None
        assert service.asked == 1

    async def test_two_workspaces_do_not_wait_for_each_other(
        self, keyring: Keyring, service: KeyService
    ) -> None:
        stored = [await keyring.new_workspace_key(name) for name in ("wsp_a", "wsp_b")]
        service.asked = 0
        pairs = zip(("wsp_a", "wsp_b"), stored, strict=True)
        one, two = await asyncio.gather(*(keyring.sealing_key(*pair) for pair in pairs))
        assert service.asked == 2
        assert one.key_id != two.key_id

    async def test_a_caller_that_goes_away_cancels_it_for_nobody_else(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        service.answering.clear()
        first, second = (
            asyncio.create_task(keyring.sealing_key("wsp_ada", stored)) for _ in range(2)
        )
        await settle()
        first.cancel()
        await settle()
        service.answering.set()
        assert (await second).key_id == stored.key_id
        assert first.cancelled()
        assert service.asked == 1

    async def test_a_failure_reaches_everybody_and_is_not_kept(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        service.failure = NotReady()
        results = await asyncio.gather(
            *(keyring.sealing_key("wsp_ada", stored) for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(result, NotReady) for result in results)
        assert service.asked == 1
        service.failure = None
        assert (await keyring.sealing_key("wsp_ada", stored)).key_id == stored.key_id

    async def test_forged_bytes_do_not_ride_on_an_honest_call(
        self, keyring: Keyring, stored: StoredKey
    ) -> None:
        forged = forge(stored)
        honest, lying = await asyncio.gather(
            keyring.sealing_key("wsp_ada", stored),
            keyring.sealing_key("wsp_ada", forged),
            return_exceptions=True,
        )
        assert isinstance(honest, SealingKey)
        assert isinstance(lying, IntegrityError)


class TestAge:
    async def test_within_the_soft_ttl_nobody_is_asked(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        clock.now += SOFT - 0.001
        await keyring.sealing_key("wsp_ada", stored)
        await settle()
        assert keyring.cached("wsp_ada", stored.key_id) is not None
        assert service.asked == 1

    async def test_after_it_one_refresh_runs_behind_the_requests(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        clock.now += SOFT
        assert keyring.cached("wsp_ada", stored.key_id) is None
        service.answering.clear()
        for _ in range(10):
            await keyring.sealing_key("wsp_ada", stored)  # does not wait
        await settle()
        assert service.asked == 2
        service.answering.set()
        await settle()
        assert keyring.cached("wsp_ada", stored.key_id) is not None
        clock.now += SOFT - 1
        await keyring.sealing_key("wsp_ada", stored)
        assert service.asked == 2

    async def test_while_the_service_is_away_a_key_goes_on_until_the_hard_ttl(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        begun = clock.now
        await keyring.sealing_key("wsp_ada", stored)
        for failure in (NotReady(), ConnectionError(), TimeoutError()):
            service.failure = failure
            for _ in range(20):
                clock.now += RETRY_AFTER_OUTAGE * 2
                await keyring.sealing_key("wsp_ada", stored)
                await settle()
        clock.now = begun + HARD - 0.001
        assert (await keyring.sealing_key("wsp_ada", stored)).key_id == stored.key_id
        await settle()
        clock.now = begun + HARD
        assert keyring.cached("wsp_ada", stored.key_id) is None
        with pytest.raises(NotReady):
            await keyring.sealing_key("wsp_ada", stored)
        service.failure = None
        assert (await keyring.sealing_key("wsp_ada", stored)).key_id == stored.key_id

    async def test_a_refresh_that_fails_behind_a_request_makes_no_noise(
        self,
        keyring: Keyring,
        service: KeyService,
        stored: StoredKey,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The event loop logs the exception of a task that nobody asked, traceback and all."""
        await keyring.sealing_key("wsp_ada", stored)
        service.failure = NotReady()
        clock.now += SOFT
        await keyring.sealing_key("wsp_ada", stored)
        await settle()
        gc.collect()
        assert service.asked == 2
        assert "never retrieved" not in caplog.text

    async def test_a_service_that_is_away_is_not_asked_by_every_request(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        service.failure = NotReady()
        clock.now += SOFT
        for _ in range(50):
            await keyring.sealing_key("wsp_ada", stored)
            await settle()
        assert service.asked == 2
        assert keyring.cached("wsp_ada", stored.key_id) is not None
        clock.now += RETRY_AFTER_OUTAGE
        service.failure = None
        await keyring.sealing_key("wsp_ada", stored)
        await settle()
        assert service.asked == 3
        clock.now += SOFT - 1
        assert keyring.cached("wsp_ada", stored.key_id) is not None

    @pytest.mark.parametrize("failure", [IntegrityError(), RootKeyUnknown(), Misconfigured()])
    async def test_a_refusal_is_no_outage(
        self,
        keyring: Keyring,
        service: KeyService,
        stored: StoredKey,
        clock: Clock,
        failure: VaultError,
    ) -> None:
        """A root key that was destroyed must not live on in the cache."""
        await keyring.sealing_key("wsp_ada", stored)
        service.failure = failure
        clock.now += SOFT
        await keyring.sealing_key("wsp_ada", stored)
        await settle()
        assert keyring.cached("wsp_ada", stored.key_id) is None
        with pytest.raises(type(failure)):
            await keyring.sealing_key("wsp_ada", stored)

    async def test_a_rewrapped_row_during_an_outage_is_served_from_the_cache(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        rewrapped = await keyring.rewrap("wsp_ada", stored)
        service.asked = 0
        service.failure = NotReady()
        for _ in range(5):
            key = await keyring.sealing_key("wsp_ada", rewrapped)
            assert key.key_id == stored.key_id
        assert service.asked == 1
        clock.now += HARD
        with pytest.raises(NotReady):
            await keyring.sealing_key("wsp_ada", rewrapped)


class TestHanging:
    async def test_a_service_that_hangs_is_left_at_the_deadline(
        self, service: KeyService, stored: StoredKey
    ) -> None:
        service.answering.clear()
        keyring = Keyring(service, "dep_1", deadline=0.05)
        async with asyncio.timeout(60):
            for call in (
                keyring.sealing_key("wsp_ada", stored),
                keyring.new_workspace_key("wsp_bob"),
                keyring.rewrap("wsp_ada", stored),
                keyring.wrap_deployment_secret("pepper", bytes(32)),
                keyring.unwrap_deployment_secret("pepper", Wrapped(b"", "")),
                keyring.root_key_info(),
                keyring.health(),
            ):
                with pytest.raises(NotReady, match="does not answer"):
                    await call

    async def test_a_cached_key_does_not_hang(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        service.answering.clear()
        clock.now += SOFT
        asked = asyncio.create_task(keyring.sealing_key("wsp_ada", stored))
        await settle()
        assert asked.done()
        assert (await asked).key_id == stored.key_id

    def test_the_default_deadline_is_five_seconds(self) -> None:
        assert inspect.signature(Keyring).parameters["deadline"].default == 5

    async def test_closing_stops_what_is_under_way(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        service.answering.clear()
        waiting = asyncio.create_task(keyring.sealing_key("wsp_ada", stored))
        await settle()
        await keyring.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert keyring.cached("wsp_ada", stored.key_id) is None


class TestSize:
    async def test_the_least_recently_used_key_goes(self, service: KeyService) -> None:
        keyring = Keyring(service, "dep_1", max_workspaces=2)
        stored = {name: await keyring.new_workspace_key(name) for name in ("a", "b", "c")}
        for name in ("a", "b", "a", "c"):
            await keyring.sealing_key(name, stored[name])
        kept = {name for name, one in stored.items() if keyring.cached(name, one.key_id)}
        assert kept == {"a", "c"}

    async def test_an_evicted_key_still_serves_whoever_holds_it(self, service: KeyService) -> None:
        """Wiping it at once would have a running request seal with zeros."""
        keyring = Keyring(service, "dep_1", max_workspaces=1)
        one, two = [await keyring.new_workspace_key(name) for name in ("a", "b")]
        held = await keyring.sealing_key("a", one)
        sealed = seal(held, PLACE, b"token")
        await keyring.sealing_key("b", two)
        assert keyring.cached("a", one.key_id) is None
        assert open_sealed(held, PLACE, seal(held, PLACE, b"x")) == b"x"
        again = await keyring.sealing_key("a", one)
        assert open_sealed(again, PLACE, sealed) == b"token"

    async def test_dead_keys_do_not_stay_in_memory(
        self, keyring: Keyring, stored: StoredKey, clock: Clock
    ) -> None:
        """The key of an idle workspace leaves when another one's is loaded."""
        await keyring.sealing_key("wsp_ada", stored)
        other = await keyring.new_workspace_key("wsp_bob")
        assert stored.key_id in held_in_memory()
        clock.now += HARD
        await keyring.sealing_key("wsp_bob", other)
        assert stored.key_id not in held_in_memory()

    @pytest.mark.parametrize(
        "limits", [{"max_workspaces": 0}, {"soft_ttl": 0}, {"soft_ttl": 2, "hard_ttl": 1}], ids=str
    )
    async def test_limits_that_cannot_work_are_refused(
        self, service: KeyService, limits: dict[str, int]
    ) -> None:
        with pytest.raises(ValueError, match="keyring"):
            Keyring(service, "dep_1", **limits)  # type: ignore[arg-type]


class TestForgetting:
    async def test_all_versions_of_that_workspace_go_and_no_others(self, keyring: Keyring) -> None:
        names = ("wsp_ada", "wsp_ada", "wsp_bob")
        stored = [(name, await keyring.new_workspace_key(name)) for name in names]
        for name, one in stored:
            await keyring.sealing_key(name, one)
        keyring.forget("wsp_ada")
        assert [bool(keyring.cached(name, one.key_id)) for name, one in stored] == [
            False,
            False,
            True,
        ]

    async def test_it_holds_against_an_unwrap_under_way(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        service.answering.clear()
        waiting = asyncio.create_task(keyring.sealing_key("wsp_ada", stored))
        await settle()
        keyring.forget("wsp_ada")
        service.answering.set()
        await waiting
        await settle()
        assert keyring.cached("wsp_ada", stored.key_id) is None

    async def test_it_holds_against_a_refresh_under_way(
        self, keyring: Keyring, service: KeyService, stored: StoredKey, clock: Clock
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        clock.now += SOFT
        service.answering.clear()
        await keyring.sealing_key("wsp_ada", stored)
        await settle()
        keyring.forget("wsp_ada")
        service.answering.set()
        await settle()
        assert service.asked == 2
        assert keyring.cached("wsp_ada", stored.key_id) is None


class TestRotation:
    async def test_rewrapping_changes_the_root_key_and_nothing_else(
        self, keyring: Keyring, stored: StoredKey, key_file: Path
    ) -> None:
        sealed = seal(await keyring.sealing_key("wsp_ada", stored), PLACE, b"token")
        add_line(key_file)
        await keyring.health()
        rewrapped = await keyring.rewrap("wsp_ada", stored)
        assert (rewrapped.key_id, rewrapped.version) == (stored.key_id, stored.version)
        assert rewrapped.root_key_id == (await keyring.root_key_info()).current
        assert rewrapped.root_key_id != stored.root_key_id
        drop_last_line(key_file)
        fresh = Keyring(FileRootKey(key_file), "dep_1")
        assert open_sealed(await fresh.sealing_key("wsp_ada", rewrapped), PLACE, sealed) == b"token"
        with pytest.raises(RootKeyUnknown):
            await fresh.sealing_key("wsp_ada", stored)

    async def test_a_rewrapped_row_is_unwrapped_once(
        self, keyring: Keyring, service: KeyService, stored: StoredKey
    ) -> None:
        await keyring.sealing_key("wsp_ada", stored)
        rewrapped = await keyring.rewrap("wsp_ada", stored)
        service.asked = 0
        for _ in range(5):
            await keyring.sealing_key("wsp_ada", rewrapped)
        assert service.asked == 1

    async def test_another_workspaces_key_is_not_rewrapped(
        self, keyring: Keyring, stored: StoredKey
    ) -> None:
        with pytest.raises(IntegrityError):
            await keyring.rewrap("wsp_bob", stored)


def add_line(key_file: Path) -> None:
    key_file.write_text(new_line() + "\n" + key_file.read_text(encoding="ascii"), encoding="ascii")


def drop_last_line(key_file: Path) -> None:
    lines = key_file.read_text(encoding="ascii").splitlines()
    key_file.write_text("\n".join(lines[:-1]), encoding="ascii")


class TestDeploymentSecrets:
    async def test_it_comes_back(self, keyring: Keyring) -> None:
        wrapped = await keyring.wrap_deployment_secret("pepper", b"p" * 32)
        assert await keyring.unwrap_deployment_secret("pepper", wrapped) == b"p" * 32

    async def test_another_purpose_is_refused(self, keyring: Keyring) -> None:
        wrapped = await keyring.wrap_deployment_secret("pepper", b"p" * 32)
        with pytest.raises(IntegrityError):
            await keyring.unwrap_deployment_secret("audit", wrapped)

    async def test_another_deployment_is_refused(
        self, keyring: Keyring, service: KeyService
    ) -> None:
        wrapped = await keyring.wrap_deployment_secret("pepper", b"p" * 32)
        with pytest.raises(IntegrityError):
            await Keyring(service, "dep_2").unwrap_deployment_secret("pepper", wrapped)

    async def test_a_workspace_key_is_no_deployment_secret(
        self, keyring: Keyring, stored: StoredKey
    ) -> None:
        for purpose in ("pepper", "workspace-key"):
            with pytest.raises(IntegrityError):
                await keyring.unwrap_deployment_secret(
                    purpose, Wrapped(stored.wrapped, stored.root_key_id)
                )


class TestHealth:
    async def test_it_is_healthy(self, keyring: Keyring) -> None:
        await keyring.health()

    @pytest.mark.parametrize("failure", [NotReady(), ConnectionError()])
    async def test_an_outage_shows(
        self, keyring: Keyring, service: KeyService, failure: Exception
    ) -> None:
        service.failure = failure
        with pytest.raises(NotReady):
            await keyring.health()

    async def test_what_the_operator_must_mend_shows(
        self, keyring: Keyring, key_file: Path
    ) -> None:
        remove(key_file)
        with pytest.raises(Misconfigured):
            await keyring.health()


def remove(path: Path) -> None:
    path.unlink()


async def test_closing_lets_every_key_go(keyring: Keyring, stored: StoredKey) -> None:
    await keyring.sealing_key("wsp_ada", stored)
    assert stored.key_id in held_in_memory()
    await keyring.close()
    await settle()  # the event loop still holds the task that has just ended
    assert stored.key_id not in held_in_memory()
