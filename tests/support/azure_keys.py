"""Azure Key Vault on loopback, as far as a root key needs it; written from its documentation.

One RSA key with its versions, over TLS. It asks for a token as the service does, by a challenge.
It cannot tell whether Azure does anything else.
"""

import base64
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

HOST: Final = "keyturn-tests.vault.azure.net"
NAME: Final = "keyturn"
TOKEN: Final = "tests-azure-token"


class _Refusal(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class AzureKeys:
    """The service, and what a test may do to it."""

    def __init__(self) -> None:
        self.versions: dict[str, rsa.RSAPrivateKey] = {}
        self.refusal: int | None = None
        self.kind = "RSA"
        self.port = 0
        self.asked: list[str] = []
        self.rotate()

    def rotate(self) -> None:
        name = f"{len(self.versions) + 1:032x}"
        self.versions[name] = rsa.generate_private_key(public_exponent=65_537, key_size=2048)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(f"{method} {path}")
        if self.refusal is not None:
            raise _Refusal(self.refusal)
        found = re.fullmatch(rf"/keys/{NAME}(?:/([0-9a-z]*))?(?:/(sign|unwrapkey))?", path)
        if found is None:
            raise _Refusal(404)
        if found[1] == "versions":
            return {"value": [self._listed(one) for one in self.versions]}
        version = found[1] or list(self.versions)[-1]
        if version not in self.versions:
            raise _Refusal(404)
        if found[2] is None:
            return self._bundle(version)
        value = _raw(body["value"])
        made = self._signed if found[2] == "sign" else self._unwrapped
        return {"kid": self._kid(version), "value": _text(made(version, value, body["alg"]))}

    def _kid(self, version: str) -> str:
        return f"https://{HOST}/keys/{NAME}/{version}"

    def _listed(self, version: str) -> dict[str, Any]:
        return {"kid": self._kid(version), "attributes": {"enabled": True}}

    def _bundle(self, version: str) -> dict[str, Any]:
        public = self.versions[version].public_key().public_numbers()
        key = {
            "kid": self._kid(version),
            "kty": self.kind,
            "key_ops": ["wrapKey", "unwrapKey", "sign", "verify"],
            "n": _text(public.n.to_bytes(256)),
            "e": _text(public.e.to_bytes(3)),
        }
        return {"key": key, "attributes": {"enabled": True}}

    def _signed(self, version: str, digest: bytes, algorithm: str) -> bytes:
        assert algorithm == "PS256"
        pss = padding.PSS(padding.MGF1(SHA256()), 32)
        return self.versions[version].sign(digest, pss, Prehashed(SHA256()))

    def _unwrapped(self, version: str, wrapped: bytes, algorithm: str) -> bytes:
        assert algorithm == "RSA-OAEP-256"
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
        try:
            return self.versions[version].decrypt(wrapped, oaep)
        except ValueError:
            raise _Refusal(400) from None


@contextmanager
def azure_keys(tls: ssl.SSLContext) -> Iterator[AzureKeys]:
    service = AzureKeys()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def log_message(self, *_: object) -> None:
            pass

        def _reply(self, method: str) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path = self.path.partition("?")[0].rstrip("/")
            headers, status = {}, 200
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, reply = 401, {}
                where = "https://login.microsoftonline.com/tests"
                headers["WWW-Authenticate"] = (
                    f'Bearer authorization="{where}", resource="https://vault.azure.net"'
                )
            else:
                try:
                    reply = service.answer(method, path, body)
                except _Refusal as refusal:
                    status = refusal.status
                    reply = {"error": {"code": "hunter2", "message": "hunter2"}}
            text = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        service.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        server.shutdown()


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
