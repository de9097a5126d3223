"""A client's certificate, on its way into a TLS context.

* Python loads a certificate and its key from a file only. The file is one in memory, without a
  name; where the system has none, it is readable by us alone, and gone before anything else.
* An encrypted key without its passphrase is an error, never a prompt on a terminal.
* OpenSSL's words go no further: they may quote what it read.
"""

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import final

from vault.egress import Egress
from vault.errors import Invalid
from vault.secret import Secret


@final
class ClientCertificate:
    """PEM, all of it. ``authority`` is trusted beside those that we trust anyway."""

    __slots__ = ("_authority", "_certificate", "_context", "_key", "_passphrase")

    def __init__(
        self,
        *,
        certificate: Secret,
        key: Secret,
        authority: Secret | None = None,
        passphrase: Secret | None = None,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._authority = authority
        self._passphrase = passphrase
        self._context: tuple[Egress, ssl.SSLContext] | None = None

    def context(self, egress: Egress) -> ssl.SSLContext:
        """Return the context for ``egress.Request.tls``.

        Made once: it reads every trusted authority, and connections are reused per context.
        """
        if self._context is None or self._context[0] is not egress:
            self._context = (egress, self._load_into(egress.tls_context()))
        return self._context[1]

    def check(self) -> None:
        """Raise ``Invalid`` if a part cannot be read, or the key is not the certificate's."""
        self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def __repr__(self) -> str:
        return "ClientCertificate(***)"

    def _load_into(self, context: ssl.SSLContext) -> ssl.SSLContext:
        passphrase = self._passphrase.reveal_bytes() if self._passphrase else b""
        both = self._certificate.reveal_bytes() + b"\n" + self._key.reveal_bytes() + b"\n"
        try:
            with _unnamed_file(both) as path:
                context.load_cert_chain(path, password=lambda: passphrase)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise Invalid(
                "The client certificate and its key do not fit together, or the passphrase is "
                "not the key's.",
                pointer="/client_certificate",
            ) from None
        if self._authority is not None:
            try:
                context.load_verify_locations(cadata=self._authority.reveal())
            except (OSError, ValueError):
                raise Invalid(
                    "The CA certificate cannot be read.", pointer="/ca_certificate"
                ) from None
        return context


@contextlib.contextmanager
def _unnamed_file(content: bytes) -> Iterator[str]:
    """Put bytes where OpenSSL can read them by a path, for a moment."""
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        with tempfile.TemporaryDirectory() as folder:  # 0700
            file = Path(folder) / "pair.pem"
            file.touch(0o600)
            file.write_bytes(content)
            yield str(file)
        return
    descriptor = os.memfd_create("keyturn", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as writer:
            writer.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
