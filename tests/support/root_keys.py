"""What every kind of root key promises, and the services that the kinds are tested against."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec
import pytest

from vault.errors import IntegrityError, NotReady, VaultError
from vault.keyring import Keyring
from vault.kms import MAX_KEY_SIZE, RootKey, RootKeyUnknown, WrapContext, Wrapped
from vault.kms.remote import OUTAGE, UNHEALTHY_FOR

CONTEXT: Final = WrapContext(
    deployment_id="dep_1", workspace="wsp_ada", key_id="00ff" * 8, purpose="workspace-key"
)
KEY: Final = bytes(range(32))
SECONDS_TO_START: Final = 60


def other_contexts() -> list[WrapContext]:
    replace = msgspec.structs.replace
    return [
        replace(CONTEXT, app="other"),
        replace(CONTEXT, deployment_id="dep_2"),
        replace(CONTEXT, workspace="wsp_bob"),
        replace(CONTEXT, workspace=""),
        replace(CONTEXT, key_id="00ff" * 7 + "00fe"),
        replace(CONTEXT, purpose="pepper"),
        # The same letters, cut elsewhere.
        replace(CONTEXT, deployment_id="dep_", workspace="1wsp_ada"),
    ]


class RootKeyContract:
    """What every backend promises. A backend's test class gives the fixture ``root``; no more."""

    async def test_what_was_wrapped_unwraps(self, root: RootKey) -> None:
        for key in (KEY, b"", b"k", bytes(MAX_KEY_SIZE)):
            assert await root.unwrap(await root.wrap(key, CONTEXT), CONTEXT) == key

    async def test_the_key_does_not_show_in_what_was_wrapped(self, root: RootKey) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        assert KEY not in wrapped.blob
        assert wrapped.blob != (await root.wrap(KEY, CONTEXT)).blob

    @pytest.mark.parametrize("other", other_contexts(), ids=str)
    async def test_another_context_is_refused(self, root: RootKey, other: WrapContext) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        with pytest.raises(IntegrityError):
            await root.unwrap(wrapped, other)
        assert await root.unwrap(wrapped, CONTEXT) == KEY

    async def test_a_changed_blob_is_refused(self, root: RootKey) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        for at in range(len(wrapped.blob)):
            changed = bytearray(wrapped.blob)
            changed[at] ^= 1
            with pytest.raises(IntegrityError):
                await root.unwrap(Wrapped(bytes(changed), wrapped.root_key_id), CONTEXT)

    async def test_a_blob_of_another_length_is_refused(self, root: RootKey) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        lengths = [wrapped.blob[:length] for length in range(len(wrapped.blob))]
        for blob in (*lengths, wrapped.blob + b"\x00", wrapped.blob * 2):
            with pytest.raises(IntegrityError):
                await root.unwrap(Wrapped(blob, wrapped.root_key_id), CONTEXT)

    async def test_an_unknown_root_key_is_a_typed_error(self, root: RootKey) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        with pytest.raises(RootKeyUnknown):
            await root.unwrap(Wrapped(wrapped.blob, "no-such-key"), CONTEXT)

    async def test_a_key_that_some_backend_could_not_wrap_is_refused(self, root: RootKey) -> None:
        with pytest.raises(ValueError, match="128 bytes"):
            await root.wrap(bytes(MAX_KEY_SIZE + 1), CONTEXT)

    async def test_it_names_the_key_that_it_wraps_with(self, root: RootKey) -> None:
        info = await root.key_info()
        assert info.current in info.known
        assert (await root.wrap(KEY, CONTEXT)).root_key_id == info.current

    async def test_it_wraps_by_the_key_that_is_named(self, root: RootKey) -> None:
        current = (await root.key_info()).current
        wrapped = await root.wrap(KEY, CONTEXT, current)
        assert wrapped.root_key_id == current
        assert await root.unwrap(wrapped, CONTEXT) == KEY
        with pytest.raises(RootKeyUnknown):
            await root.wrap(KEY, CONTEXT, "no-such-key")

    async def test_it_is_healthy(self, root: RootKey) -> None:
        await root.health()


class Outside(Protocol):
    """A key service in the world outside, and the operator's hand on it."""

    def opened(self) -> RootKey:
        """Open the root key as it is configured now; a rotation may change that."""
        ...

    def rotate(self) -> None:
        """Let something newer wrap from now on: a version, or another key beside the old one."""
        ...

    def away(self) -> AbstractAsyncContextManager[None]:
        """Let nobody reach it for as long as this is open."""
        ...


class ServiceContract(RootKeyContract):
    """What every root key at a service promises beyond that. A test class gives ``outside``."""

    @pytest.fixture
    def root(self, outside: Outside) -> RootKey:
        return outside.opened()

    async def test_a_key_of_another_deployment_is_refused(self, root: RootKey) -> None:
        stored = await Keyring(root, "dep_1").new_workspace_key("wsp_ada")
        with pytest.raises(IntegrityError):
            await Keyring(root, "dep_2").sealing_key("wsp_ada", stored)
        with pytest.raises(IntegrityError):
            await Keyring(root, "dep_1").sealing_key("wsp_bob", stored)

    async def test_after_a_rotation_old_and_new_unwrap_and_the_new_one_wraps(
        self, outside: Outside, root: RootKey
    ) -> None:
        old = await root.wrap(KEY, CONTEXT)
        outside.rotate()
        root = outside.opened()
        info, new = await root.key_info(), await root.wrap(KEY, CONTEXT)
        assert new.root_key_id == info.current != old.root_key_id
        assert {old.root_key_id, new.root_key_id} <= set(info.known)
        for wrapped in (old, new):
            assert await root.unwrap(wrapped, CONTEXT) == KEY

    async def test_while_it_is_away_cached_workspaces_go_on_and_nothing_new_starts(
        self, outside: Outside, root: RootKey
    ) -> None:
        keyring = Keyring(root, "dep_1", soft_ttl=0.001)
        stored = await keyring.new_workspace_key("wsp_ada")
        key = await keyring.sealing_key("wsp_ada", stored)
        await keyring.health()
        async with outside.away():
            for _ in range(3):
                assert (await keyring.sealing_key("wsp_ada", stored)).key_id == key.key_id
                await asyncio.sleep(0.01)
            with pytest.raises(NotReady):
                await keyring.new_workspace_key("wsp_bob")
            with pytest.raises(NotReady):  # a replica that starts now
                await Keyring(outside.opened(), "dep_1").sealing_key("wsp_ada", stored)
            with pytest.raises(NotReady) as caught:
                await outside.opened().health()
            assert caught.value.message.endswith(OUTAGE)
            assert_bare(caught.value)
        await settled()
        await keyring.new_workspace_key("wsp_bob")
        await keyring.health()
        await keyring.close()


async def refusal(root: RootKey, kind: type[VaultError]) -> str:
    """Fail at wrapping, at unwrapping what is well formed, and at the health check; say how."""
    with pytest.raises(kind) as wrapping:
        await root.wrap(KEY, CONTEXT)
    with pytest.raises(kind) as checking:
        await root.health()
    for caught in (wrapping, checking):
        assert caught.type is kind
        assert_bare(caught.value)
    return wrapping.value.message


def assert_bare(error: BaseException) -> None:
    """Nothing of the library's own exception hangs on ours."""
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def program(name: str) -> str | None:
    """Find a program beside this Python, or on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


@contextmanager
def serving(words: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it listens on `port` when the block begins."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent)}
    with log.open("wb") as output:
        server = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_for(server, port, log)
        yield server
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        else:
            return


async def settled() -> None:
    """Let a health check's answer grow old enough to be asked for anew."""
    await asyncio.sleep(UNHEALTHY_FOR + 0.1)
