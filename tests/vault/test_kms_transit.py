"""Transit, by a real OpenBao server; what a healthy one never says is said by a stand-in."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.loopback import listening, saying
from support.root_keys import (
    CONTEXT,
    KEY,
    Outside,
    ServiceContract,
    refusal,
)
from support.wire import Wire, wired

from vault.errors import Misconfigured, NotReady, VaultError
from vault.kms import (
    Credentials,
    RootKey,
    RootKeyRefused,
    RootKeyUnknown,
    bind,
    open_root_key,
)
from vault.kms.remote import RemoteRootKey
from vault.secret import Secret

hvac = pytest.importorskip("hvac", reason="the extra 'transit' is not installed")

from support import openbao  # noqa: E402 - needs the extra

from vault.kms.transit import TransitKey, read_place  # noqa: E402 - needs the extra


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openbao.OpenBao]:
    with openbao.openbao(tmp_path_factory.mktemp("bao")) as found:
        yield found


@pytest.fixture(autouse=True)
def nobodys_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAULT_TOKEN", raising=False)


@pytest.fixture
def key(bao: openbao.OpenBao) -> str:
    return bao.new_key()


def address(base: str, key: str, options: str = "") -> str:
    return f"transit://{base.removeprefix('http://')}/transit/{key}?tls=off{options}"


def opened(base: str, key: str, token: str) -> RootKey:
    return open_root_key(address(base, key), Credentials(transit_token=Secret(token)))


class Transit:
    """A key of the server, and the wire to it."""

    def __init__(self, bao: openbao.OpenBao, wire: Wire, key: str) -> None:
        self._operator = bao.operator
        self._wire = wire
        self._key = key
        self._token = bao.new_token()

    def opened(self) -> RootKey:
        return opened(self._wire.base, self._key, self._token)

    def rotate(self) -> None:
        self._operator.secrets.transit.rotate_key(self._key)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        await self._wire.put("refused")
        yield
        await self._wire.put(None)


class TestTheContract(ServiceContract):
    @pytest.fixture
    async def outside(self, bao: openbao.OpenBao, key: str) -> AsyncIterator[Outside]:
        async with wired(bao.base) as wire:
            yield Transit(bao, wire, key)


class TestTheContractOfADerivedKey(ServiceContract):
    @pytest.fixture
    async def outside(self, bao: openbao.OpenBao) -> AsyncIterator[Outside]:
        async with wired(bao.base) as wire:
            yield Transit(bao, wire, bao.new_key(derived=True))


@pytest.fixture
def root(bao: openbao.OpenBao, key: str) -> RootKey:
    return opened(bao.base, key, bao.new_token())


class TestTheKey:
    async def test_the_service_itself_checks_the_context(
        self, bao: openbao.OpenBao, key: str, root: RootKey
    ) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        text = f"vault:v1:{b64(wrapped.blob[1:])}"
        data = b64(CONTEXT.canonical())
        found = bao.operator.secrets.transit.decrypt_data(key, text, associated_data=data)
        assert found["data"]["plaintext"] == b64(bind(KEY, CONTEXT))
        with pytest.raises(hvac.exceptions.InvalidRequest):
            bao.operator.secrets.transit.decrypt_data(key, text)

    async def test_a_version_that_may_not_unwrap_any_more_is_unknown(
        self, bao: openbao.OpenBao, key: str, root: RootKey
    ) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        bao.operator.secrets.transit.rotate_key(key)
        bao.operator.secrets.transit.update_key_configuration(key, min_decryption_version=2)
        with pytest.raises(RootKeyUnknown, match="version"):
            await root.unwrap(wrapped, CONTEXT)
        assert wrapped.root_key_id not in (await root.key_info()).known

    async def test_a_misspelt_name_makes_no_key(self, bao: openbao.OpenBao) -> None:
        """Transit would make one for a token that may create it."""
        with pytest.raises(RootKeyUnknown, match="misspelt"):
            await opened(bao.base, "misspelt", openbao.ROOT_TOKEN).wrap(KEY, CONTEXT)
        assert "misspelt" not in bao.operator.secrets.transit.list_keys()["data"]["keys"]

    @pytest.mark.parametrize(
        "more", [{"key_type": "rsa-2048"}, {"derived": True, "convergent_encryption": True}]
    )
    async def test_a_key_of_another_kind_is_refused(
        self, bao: openbao.OpenBao, more: dict[str, Any]
    ) -> None:
        name = f"odd{time.monotonic_ns()}"
        bao.operator.secrets.transit.create_key(name, **{"key_type": "aes256-gcm96", **more})
        with pytest.raises(Misconfigured, match="AEAD"):
            await opened(bao.base, name, openbao.ROOT_TOKEN).wrap(KEY, CONTEXT)


class TestLoggingIn:
    async def test_a_token_that_does_not_last_is_renewed(
        self, bao: openbao.OpenBao, key: str
    ) -> None:
        token, clock = bao.new_token(ttl="1h", explicit_max_ttl="9h"), Clock()
        place = read_place(urlsplit(address(bao.base, key)))
        root = RemoteRootKey(
            TransitKey(place, Credentials(transit_token=Secret(token)), clock=clock)
        )
        renewed = []
        for _ in range(4):
            assert await root.unwrap(await root.wrap(KEY, CONTEXT), CONTEXT) == KEY
            found = bao.operator.auth.token.lookup(token)["data"]
            renewed.append(found.get("last_renewal"))
            await asyncio.sleep(1.1)  # what the server tells has whole seconds
            clock.now += 1_900
        assert None not in renewed
        assert len(set(renewed)) == 4, "each time at half of its life"

    async def test_a_role_logs_in_and_again_when_its_token_is_gone(
        self, bao: openbao.OpenBao, key: str
    ) -> None:
        role = bao.operator.auth.approle
        role.create_or_update_approle("keyturn", token_policies=["keyturn"], token_ttl="60s")
        uri = address(
            bao.base, key, f"&auth=approle&role={role.read_role_id('keyturn')['data']['role_id']}"
        )
        secret = role.generate_secret_id("keyturn")["data"]["secret_id"]
        root = open_root_key(uri, Credentials(transit_secret_id=Secret(secret)))
        wrapped = await root.wrap(KEY, CONTEXT)
        for accessor in bao.operator.list("auth/token/accessors")["data"]["keys"]:
            if "keyturn" in bao.operator.auth.token.lookup_accessor(accessor)["data"]["policies"]:
                bao.operator.auth.token.revoke_accessor(accessor)
        assert await root.unwrap(wrapped, CONTEXT) == KEY

    async def test_a_token_that_was_revoked_is_refused_until_there_is_another(
        self, bao: openbao.OpenBao, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = bao.new_token()
        monkeypatch.setenv("VAULT_TOKEN", first)
        root = open_root_key(address(bao.base, key))
        wrapped = await root.wrap(KEY, CONTEXT)
        bao.operator.auth.token.revoke(first)
        said = await refusal(root, RootKeyRefused)
        assert first not in said
        os.environ["VAULT_TOKEN"] = bao.new_token()  # as an agent writes another
        assert await root.unwrap(wrapped, CONTEXT) == KEY

    async def test_no_token_at_all(self, bao: openbao.OpenBao, key: str) -> None:
        assert "look at the token" in await refusal(
            open_root_key(address(bao.base, key)), RootKeyRefused
        )

    async def test_a_policy_that_is_too_narrow(self, bao: openbao.OpenBao, key: str) -> None:
        token = bao.operator.auth.token.create(policies=["default"])["auth"]["client_token"]
        await refusal(opened(bao.base, key, token), RootKeyRefused)

    async def test_an_agent_beside_us_adds_the_token(self, bao: openbao.OpenBao, key: str) -> None:
        """Without an agent there nobody adds one, and we send none of our own."""
        await refusal(open_root_key(address(bao.base, key, "&auth=agent")), RootKeyRefused)

    async def test_a_pods_token_that_cannot_be_read(
        self, bao: openbao.OpenBao, tmp_path: Path
    ) -> None:
        uri = address(bao.base, "k", f"&auth=kubernetes&role=r&jwt={tmp_path}/none")
        assert "pod's token" in await refusal(open_root_key(uri), RootKeyRefused)


class TestTroubles:
    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (403, {"errors": ["hunter2"]}, RootKeyRefused),
            (400, {"errors": ["hunter2"]}, RootKeyRefused),
            (404, {"errors": []}, RootKeyUnknown),
            (404, None, NotReady),
            (429, {"errors": ["hunter2"]}, NotReady),
            (500, {"errors": ["hunter2"]}, NotReady),
            (502, None, NotReady),
            (503, {"errors": ["Vault is sealed"]}, NotReady),
            (200, {"hunter2": 1}, NotReady),
            (200, None, NotReady),
            (302, None, NotReady),
        ],
    )
    async def test_each_is_what_it_is_and_repeats_nothing(
        self, status: int, body: object, kind: type[VaultError]
    ) -> None:
        text = b"<html>hunter2" if body is None else json.dumps(body).encode()
        mime = "text/html" if body is None else "application/json"
        head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Type: {mime}\r\n"
        whole = f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text
        async with listening(saying(whole)) as listener:
            root = opened(f"http://127.0.0.1:{listener.port}", "k", "hunter2")
            assert "hunter2" not in await refusal(root, kind)

    async def test_a_service_that_hangs(self) -> None:
        async with listening(saying(b"", after=60)) as listener:
            root = opened(f"http://127.0.0.1:{listener.port}", "k", "x")
            assert "answer" in await refusal(root, NotReady)

    async def test_no_proxy_gets_the_token(
        self, monkeypatch: pytest.MonkeyPatch, bao: openbao.OpenBao, key: str
    ) -> None:
        token = bao.new_token()
        async with listening(saying(b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n")) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
            root = opened(bao.base, key, token)
            assert await root.unwrap(await root.wrap(KEY, CONTEXT), CONTEXT) == KEY
            assert proxy.accepted == 0


class TestTheAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            "transit://",
            "transit://bao.acme.com",
            "transit://bao.acme.com/transit",
            "transit://bao.acme.com/transit/k?nonsense=1",
            "transit://bao.acme.com/transit/k?auth=magic",
            "transit://bao.acme.com/transit/../k/%0a",
            "transit://bao.acme.com:99999/transit/k",
            "transit://bao.acme.com/transit/k#x",
        ],
    )
    def test_what_names_no_key_is_refused_with_the_form(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="transit://HOST/MOUNT/KEY"):
            open_root_key(uri)

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("transit://bao.acme.com/transit/k?tls=off", "127.0.0.1"),
            ("transit://localhost/transit/k?tls=off", "127.0.0.1"),
            ("transit://bao.acme.com/transit/k?auth=approle", "role"),
            ("transit://bao.acme.com/transit/k?auth=kubernetes", "role"),
            ("transit://bao.acme.com/transit/k?auth=agent", "exclude each other"),
        ],
    )
    def test_what_cannot_work_is_said(self, uri: str, said: str) -> None:
        with pytest.raises(Misconfigured, match=said):
            open_root_key(uri, Credentials(transit_token=Secret("x")))

    def test_mounts_may_be_deep_and_namespaces_stand_in_the_id(self) -> None:
        place = read_place(urlsplit("transit://[::1]:1/a/b/k?namespace=team&tls=off"))
        assert (place.url, place.mount, place.key) == ("http://[::1]:1", "a/b", "k")
        assert place.prefix == "transit:team/a/b/k:"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
