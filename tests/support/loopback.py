"""The outside world on loopback: servers that answer as a test wants, and an authority for TLS."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from vault.egress import Egress, Purpose, Reply, Request, parse_allow

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


PATIENCE: Final = 60.0


async def until(done: Callable[[], object]) -> None:
    """Wait until it is so; there is nobody who would tell."""
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0.005)


class Listener:
    """A server on loopback: what it accepted, how much of it is open, and what it heard."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self.open = 0
        self.heard: list[bytes] = []


@asynccontextmanager
async def listening(
    answer: Answer, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listener]:
    """Answer every request on every connection with `answer`."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.accepted += 1
        listener.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                listener.heard.append(head + body)
                await answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            listener.open -= 1
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(handle(reader, writer)))

    server = await asyncio.start_server(accept, host, port, ssl=tls, backlog=1_000)
    listener = Listener(server.sockets[0].getsockname()[1])
    try:
        yield listener
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def saying(*pieces: bytes, after: float = 0, pause: float = 0) -> Answer:
    """Answer with these pieces; an empty one closes the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
            if not piece:
                writer.close()

    return answer


@asynccontextmanager
async def calling(
    allow: str = "127.0.0.1",
    table: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> AsyncIterator[Egress]:
    """Open an Egress that finds names in `table` only."""

    async def resolver(host: str) -> Sequence[str]:
        return (table or {}).get(host, ())

    options.setdefault("resolver", resolver)
    egress = Egress(allow=parse_allow(allow, development=True), **options)
    try:
        yield egress
    finally:
        await egress.aclose()


async def ask(
    egress: Egress,
    url: str,
    purpose: Purpose = "tool",
    method: str = "GET",
    **options: Any,
) -> Reply:
    return await egress.call(purpose, Request(method=method, url=url, **options))


def assert_hides(sentinel: str, error: BaseException) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    for text in (str(error), repr(error), repr(error.args), repr(vars(error))):
        assert sentinel not in text


PEM = Encoding.PEM


class Authority:
    """A private certificate authority, as a company runs one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signs = dict.fromkeys(
            [
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
            ],
            False,
        )
        usage = x509.KeyUsage(**signs, key_cert_sign=True, crl_sign=True)
        is_ca = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._sign(self._name, self._key, own, is_ca, usage)
        self.file = folder / "authority.pem"
        self.file.write_bytes(certificate.public_bytes(PEM))

    def chain(self, host: str, *, days: int = 1) -> Path:
        """Write a certificate for `host` and its key into one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._sign(subject, key, names, issuer, days=days)
        private = key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self._folder / f"{host}-{days}.pem"
        file.write_bytes(certificate.public_bytes(PEM) + private)
        return file

    def server(self, host: str, *, days: int = 1) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain(host, days=days))
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *extensions: x509.ExtensionType,
        days: int = 1,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=days))
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())
