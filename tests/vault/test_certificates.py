"""A client certificate, as an auth connection, in front of a server that asks for one."""

import ssl

import pytest
from conftest import Tenant
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support.jwts import keys
from support.loopback import OK, Authority, listening, saying

from vault.auth_kinds import MutualTls
from vault.egress import Egress, Request, parse_allow
from vault.errors import Invalid, Unreachable
from vault.vault import Vault


class Certificates:
    """A client's certificate of a private authority, and a server that asks for one."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        both = authority.chain("client.test").read_text()
        cut = both.index("-----BEGIN PRIVATE KEY")
        self.certificate, self.key = both[:cut], both[cut:]

    def locked_key(self, passphrase: str) -> str:
        key = load_pem_private_key(self.key.encode(), None)
        locked = BestAvailableEncryption(passphrase.encode())
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()

    def server(self) -> ssl.SSLContext:
        context = self.authority.server("localhost")
        context.load_verify_locations(self.authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(Authority(tmp_path_factory.mktemp("authority")))


@pytest.mark.parametrize("passphrase", [None, "p4ss phrase"])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_client_certificate_opens_a_server_that_asks_for_one(
    vault: Vault,
    tenant: Tenant,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    passphrase: str | None,
    in_memory: bool,  # noqa: FBT001
) -> None:
    if not in_memory:  # as on a system without files in memory
        monkeypatch.delattr("os.memfd_create")
    config = MutualTls(
        provider="p",
        client_certificate=certificates.certificate,
        client_key=certificates.locked_key(passphrase) if passphrase else certificates.key,
        key_passphrase=passphrase,
        ca_certificate=certificates.authority.file.read_text(),
    )
    made = await vault.create_auth_connection(tenant.caller, "c", config, allowed_hosts=[])
    got = await vault.credentials(tenant.caller, made.auth_connection_id)
    assert got.tls is not None
    assert got.headers == ()
    egress = Egress(allow=parse_allow("localhost,127.0.0.1", development=True))
    async with listening(saying(OK), tls=certificates.server()) as server:
        request = Request(
            method="GET", url=f"https://localhost:{server.port}/", tls=got.tls.context(egress)
        )
        assert (await egress.call("tool", request)).body == b"ok"
        again = await vault.credentials(tenant.caller, made.auth_connection_id)
        # So that connections, and the dear context, are reused.
        assert again.tls is not None
        assert again.tls.context(egress) is request.tls
        without = Request(method="GET", url=f"https://localhost:{server.port}/")
        with pytest.raises(Unreachable):
            await egress.call("tool", without)
    await egress.aclose()


async def test_a_certificate_that_is_none_is_refused_when_it_is_stored(
    vault: Vault, tenant: Tenant, certificates: Certificates
) -> None:
    sound = MutualTls(
        provider="p",
        client_certificate=certificates.certificate,
        client_key=certificates.key,
    )
    fields: list[dict[str, str]] = [
        {"client_certificate": "s3ntinel"},
        {"client_key": "s3ntinel"},
        {"client_key": keys("ES256")[0]},
        {"client_key": certificates.locked_key("s3ntinel")},
        {"client_key": certificates.locked_key("s3ntinel"), "key_passphrase": "wrong"},
        {"ca_certificate": "s3ntinel"},
    ]
    for wrong in fields:
        values = {name: getattr(sound, name) for name in sound.__struct_fields__}
        with pytest.raises(Invalid) as caught:
            await vault.create_auth_connection(
                tenant.caller, "c", MutualTls(**{**values, **wrong}), allowed_hosts=[]
            )
        assert "s3ntinel" not in str(caught.value)
        assert caught.value.__cause__ is None
