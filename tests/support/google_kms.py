"""Google Cloud KMS on loopback, as far as a root key needs it; written from its documentation.

One key with its versions. It checks what Google checks: CRC-32C of what it gets, the associated
data, the state of the version. It cannot tell whether Google does anything else.
"""

import base64
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY: Final = "projects/p/locations/global/keyRings/r/cryptoKeys/keyturn"
_STATUS: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}


class _Refusal(Exception):
    def __init__(self, status: str) -> None:
        self.status = status


class GoogleKms:
    """The service, and what a test may do to it."""

    def __init__(self) -> None:
        self.versions = [os.urandom(32)]
        self.disabled: set[int] = set()
        self.refusal: str | None = None
        self.spoils: str | None = None  # a field of an answer that breaks on its way
        self.base = ""

    def rotate(self) -> None:
        self.versions.append(os.urandom(32))

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refusal is not None:
            raise _Refusal(self.refusal)
        found = re.fullmatch(rf"/v1/{KEY}(:encrypt|:decrypt|/cryptoKeyVersions)?", path)
        if found is None:
            raise _Refusal("NOT_FOUND")
        deed = {":encrypt": self._encrypt, ":decrypt": self._decrypt}.get(found[1] or "")
        if deed is not None:
            assert method == "POST"
            reply = deed(body)
        elif found[1]:
            reply = {"cryptoKeyVersions": [self._named(one) for one in self._enabled()]}
        else:
            reply = {"name": KEY, "primary": self._named(len(self.versions))}
        if self.spoils in reply:
            reply[self.spoils] = {"ciphertext": _text(b"x"), "plaintext": _text(b"x")}.get(
                self.spoils, False
            )
        return reply

    def _enabled(self) -> list[int]:
        return [n for n in range(1, len(self.versions) + 1) if n not in self.disabled]

    def _named(self, version: int) -> dict[str, Any]:
        return {"name": f"{KEY}/cryptoKeyVersions/{version}", "state": "ENABLED"}

    def _encrypt(self, body: dict[str, Any]) -> dict[str, Any]:
        plaintext, data = _checked(body, "plaintext"), _associated(body)
        version = len(self.versions)
        if version in self.disabled:
            raise _Refusal("FAILED_PRECONDITION")
        nonce = os.urandom(12)
        sealed = AESGCM(self.versions[-1]).encrypt(nonce, plaintext, data)
        ciphertext = version.to_bytes(2) + nonce + sealed
        return {
            **self._named(version),
            "ciphertext": _text(ciphertext),
            "ciphertextCrc32c": str(google_crc32c.value(ciphertext)),
            "verifiedPlaintextCrc32c": True,
            "verifiedAdditionalAuthenticatedDataCrc32c": True,
        }

    def _decrypt(self, body: dict[str, Any]) -> dict[str, Any]:
        ciphertext, data = _checked(body, "ciphertext"), _associated(body)
        version = int.from_bytes(ciphertext[:2])
        if not 0 < version <= len(self.versions) or len(ciphertext) < 2 + 12 + 16:
            raise _Refusal("INVALID_ARGUMENT")
        if version in self.disabled:
            raise _Refusal("FAILED_PRECONDITION")
        try:
            key = AESGCM(self.versions[version - 1])
            plaintext = key.decrypt(ciphertext[2:14], ciphertext[14:], data)
        except InvalidTag:
            raise _Refusal("INVALID_ARGUMENT") from None
        return {
            "plaintext": _text(plaintext),
            "plaintextCrc32c": str(google_crc32c.value(plaintext)),
        }


@contextmanager
def google_kms() -> Iterator[GoogleKms]:
    service = GoogleKms()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply("GET", {})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._reply("POST", json.loads(self.rfile.read(length)))

        def log_message(self, *_: object) -> None:
            pass

        def _reply(self, method: str, body: dict[str, Any]) -> None:
            assert self.headers["Authorization"].startswith("Bearer ")
            try:
                status, reply = 200, service.answer(method, self.path.partition("?")[0], body)
            except _Refusal as refusal:
                status = _STATUS[refusal.status]
                error = {"code": status, "message": "hunter2", "status": refusal.status}
                reply = {"error": error}
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.base = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        server.shutdown()


def _checked(body: dict[str, Any], name: str) -> bytes:
    # Standard base64 and the URL's alphabet are both JSON forms of protobuf's bytes.
    content = base64.b64decode(body.get(name, "").replace("-", "+").replace("_", "/"))
    if int(body[f"{name}Crc32c"]) != google_crc32c.value(content):
        raise _Refusal("INVALID_ARGUMENT")
    return content


def _associated(body: dict[str, Any]) -> bytes:
    return _checked(body, "additionalAuthenticatedData")


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
