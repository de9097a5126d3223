"""Google Cloud KMS, by a stand-in of the wire: the real service has not been met yet."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.root_keys import CONTEXT, KEY, Outside, ServiceContract, refusal
from support.wire import Wire, wired

from vault.errors import Misconfigured, NotReady, VaultError
from vault.kms import RootKey, RootKeyDisabled, RootKeyRefused, RootKeyUnknown, open_root_key

pytest.importorskip("google.cloud.kms", reason="the extra 'gcp' is not installed")

from support import google_kms


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account's file; Google's library signs its own tokens with it."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = tmp_path_factory.mktemp("google") / "account.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "p",
                "private_key_id": "1",
                "private_key": pem.decode(),
                "client_email": "keyturn@p.iam.gserviceaccount.com",
                "token_uri": "http://127.0.0.1:1/token",
            }
        )
    )
    return file


@pytest.fixture(autouse=True)
def credentials(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))


@pytest.fixture
def service() -> Iterator[google_kms.GoogleKms]:
    with google_kms.google_kms() as found:
        yield found


def opened(base: str, name: str = google_kms.KEY) -> RootKey:
    return open_root_key(f"gcp-kms://{name}?endpoint={base}")


class Google:
    """The key, and the wire to it."""

    def __init__(self, service: google_kms.GoogleKms, wire: Wire) -> None:
        self._service = service
        self._wire = wire

    def opened(self) -> RootKey:
        return opened(self._wire.base)

    def rotate(self) -> None:
        self._service.rotate()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        await self._wire.put("refused")
        yield
        await self._wire.put(None)


class TestTheContract(ServiceContract):
    @pytest.fixture
    async def outside(self, service: google_kms.GoogleKms) -> AsyncIterator[Outside]:
        async with wired(service.base) as wire:
            yield Google(service, wire)


class TestTheKey:
    @pytest.mark.parametrize(
        "spoiled",
        [
            "ciphertext",
            "verifiedPlaintextCrc32c",
            "verifiedAdditionalAuthenticatedDataCrc32c",
            "plaintext",
        ],
    )
    async def test_a_broken_wire_does_not_become_a_broken_key(
        self, service: google_kms.GoogleKms, spoiled: str
    ) -> None:
        root = opened(service.base)
        wrapped = await root.wrap(KEY, CONTEXT)
        service.spoils = spoiled
        with pytest.raises(NotReady, match="changed on its way"):
            await (
                root.unwrap(wrapped, CONTEXT) if spoiled == "plaintext" else root.wrap(KEY, CONTEXT)
            )

    async def test_a_version_that_is_switched_off(self, service: google_kms.GoogleKms) -> None:
        root = opened(service.base)
        wrapped = await root.wrap(KEY, CONTEXT)
        service.rotate()
        service.disabled.add(1)
        with pytest.raises(RootKeyDisabled):
            await root.unwrap(wrapped, CONTEXT)
        assert wrapped.root_key_id not in (await root.key_info()).known

    async def test_a_key_that_is_not_there(self, service: google_kms.GoogleKms) -> None:
        await refusal(opened(service.base, google_kms.KEY + "2"), RootKeyUnknown)


class TestTroubles:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            ("PERMISSION_DENIED", RootKeyRefused),
            ("INVALID_ARGUMENT", RootKeyRefused),
            ("FAILED_PRECONDITION", RootKeyDisabled),
            ("NOT_FOUND", RootKeyUnknown),
            ("RESOURCE_EXHAUSTED", NotReady),
            ("UNAVAILABLE", NotReady),
        ],
    )
    async def test_each_is_what_it_is_and_repeats_nothing(
        self, service: google_kms.GoogleKms, status: str, kind: type[VaultError]
    ) -> None:
        service.refusal = status
        assert "hunter2" not in await refusal(opened(service.base), kind)

    async def test_no_credentials(
        self, monkeypatch: pytest.MonkeyPatch, service: google_kms.GoogleKms, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
        with pytest.raises(Misconfigured, match="no usable credentials"):
            opened(service.base)


class TestTheAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            "gcp-kms://",
            "gcp-kms://keyturn",
            f"gcp-kms://{google_kms.KEY}/cryptoKeyVersions/1",
            f"gcp-kms://{google_kms.KEY}?version=1",
            f"gcp-kms://{google_kms.KEY}#x",
            f"gcp-kms://{google_kms.KEY}?endpoint=http://kms.acme.com",
            f"gcp-kms://{google_kms.KEY}?endpoint=https://a:b@kms.acme.com",
            f"gcp-kms://{google_kms.KEY}?endpoint=kms.acme.com",
        ],
    )
    def test_what_names_no_key_is_refused_with_the_form(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="gcp-kms://projects/P"):
            open_root_key(uri)
