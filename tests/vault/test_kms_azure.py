"""Azure Key Vault, by a stand-in of the wire: the real service has not been met yet."""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from support.loopback import Authority
from support.ports import free_port
from support.root_keys import CONTEXT, KEY, Outside, ServiceContract, refusal

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.kms import RootKey, RootKeyRefused, RootKeyUnknown, Wrapped, bind, open_root_key
from vault.kms.remote import RemoteRootKey

pytest.importorskip("azure.keyvault.keys", reason="the extra 'azure' is not installed")

from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from support import azure_keys

from vault.kms.azure import CURRENT_FOR, AzureKey


class Identity:
    """A managed identity, as Azure's library has it."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(azure_keys.TOKEN, int(time.time()) + 3600)


class Nobody:
    def get_token(self, *_: str, **__: Any) -> NoReturn:
        raise ClientAuthenticationError("hunter2")


class Azure:
    """The service, and where its name leads."""

    def __init__(self, service: azure_keys.AzureKeys) -> None:
        self.service = service
        self.port = service.port
        self.now = 0.0

    def opened(self, credential: Any = None) -> RootKey:
        key = AzureKey(
            azure_keys.HOST, azure_keys.NAME, credential or Identity(), clock=lambda: self.now
        )
        return RemoteRootKey(key)

    def rotate(self) -> None:
        self.service.rotate()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        self.port = free_port()
        yield
        self.port = self.service.port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def outside(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    with azure_keys.azure_keys(authority.server(azure_keys.HOST)) as service:
        found = Azure(service)

        def led(_host: str, _port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
            here = ("127.0.0.1", found.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", here)]

        monkeypatch.setattr(socket, "getaddrinfo", led)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
        yield found


class TestTheContract(ServiceContract):
    @pytest.fixture
    def outside(self, outside: Azure) -> Outside:
        return outside


class TestTheKey:
    async def test_what_was_wrapped_by_its_public_half_alone_is_refused(
        self, outside: Azure
    ) -> None:
        """Anybody can do that; who may write to the database could plant a key of his own."""
        root = outside.opened()
        wrapped = await root.wrap(KEY, CONTEXT)
        [version] = outside.service.versions.values()
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
        planted = version.public_key().encrypt(bind(KEY, CONTEXT), oaep)
        for signature in (wrapped.blob[-256:], bytes(256), b""):
            blob = b"\x01" + len(planted).to_bytes(2) + planted + signature
            with pytest.raises(IntegrityError):
                await root.unwrap(Wrapped(blob, wrapped.root_key_id), CONTEXT)
        assert not [one for one in outside.service.asked if one.endswith("unwrapkey")]

    async def test_a_replica_that_runs_takes_the_newest_version_within_a_minute(
        self, outside: Azure
    ) -> None:
        root = outside.opened()
        first = await root.wrap(KEY, CONTEXT)
        outside.rotate()
        assert (await root.wrap(KEY, CONTEXT)).root_key_id == first.root_key_id
        outside.now += CURRENT_FOR
        assert (await root.wrap(KEY, CONTEXT)).root_key_id != first.root_key_id

    async def test_a_key_of_another_kind_is_refused(self, outside: Azure) -> None:
        outside.service.kind = "EC"
        assert "RSA" in await refusal(outside.opened(), Misconfigured)


class TestTroubles:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, RootKeyRefused),
            (403, RootKeyRefused),
            (404, RootKeyUnknown),
            (429, NotReady),
            (500, NotReady),
            (503, NotReady),
        ],
    )
    async def test_each_is_what_it_is_and_repeats_nothing(
        self, outside: Azure, status: int, kind: type[VaultError]
    ) -> None:
        outside.service.refusal = status
        assert "hunter2" not in await refusal(outside.opened(), kind)

    async def test_no_credentials(self, outside: Azure) -> None:
        assert "hunter2" not in await refusal(outside.opened(Nobody()), RootKeyRefused)

    async def test_a_certificate_of_nobody_we_trust(
        self, outside: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path).file))
        await refusal(outside.opened(), NotReady)


class TestTheAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            "azure://",
            "azure://v.vault.azure.net",
            "azure://v.vault.azure.net/secrets/k",
            "azure://v.vault.azure.net/keys/k/0123",
            "azure://v.vault.azure.net/keys/k?x=1",
            "azure://v.vault.azure.net/keys/k#x",
            "azure://v.vault.azure.net:x/keys/k",
        ],
    )
    def test_what_names_no_key_is_refused_with_the_form(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="azure://MY-VAULT"):
            open_root_key(uri)

    def test_a_key_is_opened_without_asking_anybody(self) -> None:
        open_root_key("azure://v.vault.azure.net/keys/k")
