"""PKCS#11, by SoftHSM: a library like a hardware module's, with its tokens in a folder."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct
from support.root_keys import CONTEXT, KEY, Outside, ServiceContract, refusal

from vault.errors import IntegrityError, Misconfigured, NotReady
from vault.kms import Credentials, RootKey, RootKeyUnknown, Wrapped, open_root_key
from vault.secret import Secret

pkcs11 = pytest.importorskip("pkcs11", reason="the extra 'pkcs11' is not installed")

LIBRARY: Final = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN: Final = "keyturn"
PIN: Final = "1234-hunter2"
OFFICER: Final = "5678-hunter2"
KEYS: Final = ("one", "two", "three")


class Module(Struct, frozen=True):
    """A module with one token."""

    tokens: Path

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Pull the plug; put it back."""
        elsewhere = self.tokens.rename(self.tokens.with_name("pulled"))
        yield
        elsewhere.rename(self.tokens)


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    # Of the whole run: a library reads where its tokens are once in the life of a process.
    if not Path(LIBRARY).exists():
        pytest.skip("SoftHSM is not installed (on Debian: softhsm2)")
    folder = tmp_path_factory.mktemp("softhsm")
    tokens = folder / "tokens"
    tokens.mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "conf")
    words = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN]
    subprocess.run(
        [*words, "--pin", PIN, "--so-pin", OFFICER], check=True, capture_output=True, timeout=30
    )
    with pkcs11.lib(LIBRARY).get_token(token_label=TOKEN).open(rw=True, user_pin=PIN) as session:
        for label in (*KEYS, "twice", "twice"):
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True)
    yield Module(tokens)
    del os.environ["SOFTHSM2_CONF"]
    shutil.rmtree(folder)


def opened(*keys: str, pin: str | None = PIN, token: str = TOKEN) -> RootKey:
    named = "".join(f"&key={key}" for key in keys)
    given = Credentials(pkcs11_pin=Secret(pin) if pin else None)
    return open_root_key(f"pkcs11://{LIBRARY}?token={token}{named}", given)


def log_everybody_out() -> None:
    """A login is the process's."""
    pkcs11.lib(LIBRARY).reinitialize()


class Softhsm:
    """Keys of the token, the one that wraps first."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._keys = ["one"]

    def opened(self) -> RootKey:
        return opened(*self._keys)

    def rotate(self) -> None:
        self._keys.insert(0, "two")

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        async with self._module.away():
            yield


class TestTheContract(ServiceContract):
    @pytest.fixture
    def outside(self, module: Module) -> Outside:
        return Softhsm(module)


@pytest.mark.usefixtures("module")
class TestTheToken:
    async def test_the_key_itself_never_leaves_it(self) -> None:
        await opened("one").wrap(KEY, CONTEXT)
        with pkcs11.lib(LIBRARY).get_token(token_label=TOKEN).open() as session:
            [key] = session.get_objects({pkcs11.Attribute.LABEL: "one"})
            with pytest.raises(pkcs11.PKCS11Error):
                key[pkcs11.Attribute.VALUE]

    async def test_two_root_keys_of_one_token_do_not_disturb_each_other(
        self, module: Module
    ) -> None:
        one, two = opened("one"), opened("two")
        wrapped = [await one.wrap(KEY, CONTEXT), await two.wrap(KEY, CONTEXT)]
        async with module.away():
            with pytest.raises(NotReady):
                await one.wrap(KEY, CONTEXT)
        assert await one.unwrap(wrapped[0], CONTEXT) == KEY  # and with it the library begins anew
        assert await two.unwrap(wrapped[1], CONTEXT) == KEY

    async def test_an_older_key_wraps_where_it_is_named(self) -> None:
        both = opened("two", "one")
        wrapped = await both.wrap(KEY, CONTEXT, "pkcs11:keyturn/one")
        assert wrapped.root_key_id == "pkcs11:keyturn/one"
        assert await opened("one").unwrap(wrapped, CONTEXT) == KEY

    async def test_a_key_that_the_token_does_not_hold_is_unknown(self) -> None:
        assert "no key of that label" in await refusal(opened("four"), RootKeyUnknown)

    async def test_a_label_that_two_keys_have_is_refused(self) -> None:
        assert "several keys" in await refusal(opened("twice"), Misconfigured)

    async def test_a_token_that_is_not_there(self) -> None:
        await refusal(opened("one", token="hunter2"), NotReady)

    async def test_what_another_key_wrapped_is_refused_under_this_ones_name(self) -> None:
        both = opened("one", "two")
        wrapped = await opened("two").wrap(KEY, CONTEXT)
        with pytest.raises(IntegrityError):
            await both.unwrap(Wrapped(wrapped.blob, "pkcs11:keyturn/one"), CONTEXT)

    async def test_a_wrong_pin_is_tried_once_in_the_life_of_a_process(self) -> None:
        """A token locks itself after a few, and SoftHSM counts them like any other."""
        log_everybody_out()
        root = opened("one", pin="wrong")
        for _ in range(4):
            assert "not tried again" in await refusal(root, Misconfigured)
        right = opened("one")
        assert await right.unwrap(await right.wrap(KEY, CONTEXT), CONTEXT) == KEY

    async def test_without_a_pin_its_keys_are_not_seen(self) -> None:
        log_everybody_out()
        await refusal(opened("one", pin=None), RootKeyUnknown)


class TestTheAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            "pkcs11://",
            "pkcs11:///lib.so",
            "pkcs11:///lib.so?token=t",
            "pkcs11:///lib.so?key=k",
            "pkcs11:///lib.so?token=t&key=",
            "pkcs11:///lib.so?token=t&token=u&key=k",
            "pkcs11:///lib.so?token=t&key=k&pin=1234",
            "pkcs11://host/lib.so?token=t&key=k",
            "pkcs11:///lib.so?token=t&key=k#x",
        ],
    )
    def test_what_names_no_key_is_refused_with_the_form(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="token=LABEL&key=LABEL"):
            open_root_key(uri)

    async def test_a_library_that_cannot_be_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "lib.so").write_text("no library")
        root = open_root_key(f"pkcs11://{tmp_path}/lib.so?token=t&key=k")
        assert "cannot be loaded" in await refusal(root, Misconfigured)
