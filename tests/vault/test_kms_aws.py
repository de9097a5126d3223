"""AWS KMS, as moto plays it; what moto does not play is answered as the service documents it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.loopback import Listener, listening, saying
from support.ports import free_port
from support.root_keys import (
    CONTEXT,
    KEY,
    Outside,
    ServiceContract,
    program,
    refusal,
    serving,
    settled,
)
from support.wire import Wire, wired

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.kms import KeyInfo, RootKey, RootKeyDisabled, RootKeyRefused, RootKeyUnknown, Wrapped
from vault.kms import open_root_key as open_it

boto3 = pytest.importorskip("boto3", reason="the extra 'aws' is not installed")

REGION: Final = "eu-west-1"
ARN: Final = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
URI: Final = f"aws-kms://{ARN}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of moto's KMS."""
    moto = program("moto_server")
    if moto is None:
        pytest.skip("moto is not installed")
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "log"
    with serving([moto, "-H", "127.0.0.1", "-p", str(port)], port, log):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What boto3 reads by itself, and nothing of this machine's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "hunter2-secret",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def client(service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The operator's own access to the service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", service)
    return boto3.client("kms", region_name=REGION)


def new_key(client: Any, **words: Any) -> str:
    return str(client.create_key(**words)["KeyMetadata"]["Arn"])


@pytest.fixture
def arn(client: Any) -> str:
    return new_key(client)


@pytest.fixture
def root(arn: str) -> RootKey:
    return open_it(f"aws-kms://{arn}")


class Aws:
    """A key, and the wire to it; AWS's own rotation changes nothing for us, so it gets a heir."""

    def __init__(self, client: Any, wire: Wire) -> None:
        self._client = client
        self._wire = wire
        self._arns = [new_key(client)]

    def opened(self) -> RootKey:
        return open_it(" ".join(f"aws-kms://{arn}" for arn in self._arns))

    def rotate(self) -> None:
        self._arns.insert(0, new_key(self._client))

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        await self._wire.put("refused")
        yield
        await self._wire.put(None)


class TestTheContract(ServiceContract):
    @pytest.fixture
    async def outside(
        self, service: str, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Outside]:
        async with wired(service) as wire:
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", wire.base)
            yield Aws(client, wire)


class TestTheKey:
    async def test_the_id_is_the_keys_own_in_every_region(self, arn: str, root: RootKey) -> None:
        name = f"aws-kms:{arn.rpartition('/')[2]}"
        assert await root.key_info() == KeyInfo(name, (name,))

    async def test_the_context_is_the_encryption_context(
        self, arn: str, client: Any, root: RootKey
    ) -> None:
        wrapped = await root.wrap(KEY, CONTEXT)
        named = {
            "app": "keyturn",
            "deployment_id": "dep_1",
            "workspace": "wsp_ada",
            "key_id": CONTEXT.key_id,
            "purpose": "workspace-key",
        }
        blob = wrapped.blob[1:]
        found = client.decrypt(KeyId=arn, CiphertextBlob=blob, EncryptionContext=named)
        assert found["Plaintext"].endswith(KEY)
        with pytest.raises(client.exceptions.InvalidCiphertextException):
            client.decrypt(KeyId=arn, CiphertextBlob=blob, EncryptionContext={"app": "keyturn"})

    async def test_a_blob_that_was_wrapped_past_us_is_refused(
        self, arn: str, client: Any, root: RootKey
    ) -> None:
        """The right encryption context is not enough: the hash stands inside, too."""
        wrapped = await root.wrap(KEY, CONTEXT)
        named = {"app": "keyturn", "deployment_id": "dep_1", "purpose": "pepper"}
        planted = client.encrypt(KeyId=arn, Plaintext=KEY, EncryptionContext=named)
        blob = b"\x01" + planted["CiphertextBlob"]
        with pytest.raises(IntegrityError):
            await root.unwrap(Wrapped(blob, wrapped.root_key_id), CONTEXT)

    async def test_a_row_cannot_choose_the_key(self, client: Any, root: RootKey) -> None:
        """A key of the same account that we may use, but that nobody configured."""
        elsewhere = await open_it(f"aws-kms://{new_key(client)}").wrap(KEY, CONTEXT)
        with pytest.raises(RootKeyUnknown):
            await root.unwrap(elsewhere, CONTEXT)
        ours = (await root.key_info()).current
        with pytest.raises(IntegrityError):
            await root.unwrap(Wrapped(elsewhere.blob, ours), CONTEXT)

    async def test_rotation_by_aws_changes_nothing(
        self, arn: str, client: Any, root: RootKey
    ) -> None:
        wrapped, before = await root.wrap(KEY, CONTEXT), await root.key_info()
        client.rotate_key_on_demand(KeyId=arn)
        assert await root.unwrap(wrapped, CONTEXT) == KEY
        assert await root.key_info() == before

    async def test_rotation_to_another_key(self, client: Any, arn: str, root: RootKey) -> None:
        wrapped, newer = await root.wrap(KEY, CONTEXT), new_key(client)
        both = open_it(f"aws-kms://{newer} aws-kms://{arn}")
        assert await both.unwrap(wrapped, CONTEXT) == KEY
        assert (await both.wrap(KEY, CONTEXT)).root_key_id.endswith(newer.rpartition("/")[2])
        with pytest.raises(RootKeyUnknown):
            await open_it(f"aws-kms://{newer}").unwrap(wrapped, CONTEXT)

    @pytest.mark.usefixtures("client")
    async def test_a_key_that_is_not_there_is_unknown(self) -> None:
        with pytest.raises(RootKeyUnknown, match="was it deleted"):
            await open_it(URI).wrap(KEY, CONTEXT)


@asynccontextmanager
async def answering(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> AsyncIterator[Listener]:
    """Stand in for the service with an error of one kind."""
    body = json.dumps({"__type": code, "message": "User arn:hunter2 is not happy"}).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.1\r\n"
    whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with listening(saying(whole)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{listener.port}")
        yield listener


class TestTroubles:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (400, "AccessDeniedException", RootKeyRefused),
            (400, "UnrecognizedClientException", RootKeyRefused),
            (400, "ExpiredTokenException", RootKeyRefused),
            (400, "KMSInvalidStateException", RootKeyRefused),
            (400, "DisabledException", RootKeyDisabled),
            (400, "NotFoundException", RootKeyUnknown),
            (400, "ThrottlingException", NotReady),
            (400, "KeyUnavailableException", NotReady),
            (500, "KMSInternalException", NotReady),
            (503, "ServiceUnavailableException", NotReady),
        ],
    )
    async def test_each_is_what_it_is_and_says_only_its_name(
        self, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[VaultError]
    ) -> None:
        async with answering(monkeypatch, status, code):
            said = await refusal(open_it(URI), kind)
        assert "hunter2" not in said
        assert "111122223333" not in said

    async def test_a_service_that_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{free_port()}")
        assert "does not answer" in await refusal(open_it(URI), NotReady)

    async def test_a_service_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with listening(saying(b"", after=60)) as listener:
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{listener.port}")
            assert "answer" in await refusal(open_it(URI), NotReady)

    async def test_no_credentials(self, monkeypatch: pytest.MonkeyPatch, arn: str) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        said = await refusal(open_it(f"aws-kms://{arn}"), RootKeyRefused)
        assert "NoCredentialsError" in said

    async def test_it_recovers(
        self, monkeypatch: pytest.MonkeyPatch, arn: str, tmp_path: Path
    ) -> None:
        port, log = free_port(), tmp_path / "log"
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{port}")
        root = open_it(f"aws-kms://{arn}")
        with pytest.raises(NotReady):
            await root.health()
        moto = program("moto_server")
        assert moto is not None
        with serving([moto, "-H", "127.0.0.1", "-p", str(port)], port, log):
            await settled()
            with pytest.raises(RootKeyUnknown):  # it answers: it is a new one, without the key
                await root.health()


class TestTheAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            "aws-kms://alias/keyturn",
            f"aws-kms://arn:aws:kms:{REGION}:111122223333:alias/keyturn",
            "aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab",
            f"aws-kms://arn:aws:s3:{REGION}:111122223333:key/1",
            "aws-kms://",
            f"{URI}?region=x",
            f"{URI}%0a",
        ],
    )
    def test_anything_but_a_keys_arn_is_refused(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="no alias"):
            open_it(uri)

    @pytest.mark.parametrize(
        "arn",
        [
            "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
        ],
    )
    def test_other_partitions_and_multi_region_keys_are_fine(self, arn: str) -> None:
        open_it(f"aws-kms://{arn}")

    def test_a_broken_profile_is_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "hunter2")
        with pytest.raises(Misconfigured, match="ProfileNotFound") as caught:
            open_it(URI)
        assert "hunter2" not in str(caught.value)
