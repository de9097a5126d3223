"""Database addresses: who logs in and where, and what PostgreSQL keeps of a password. Pure."""

import hashlib
import hmac
import os
from base64 import b64encode
from urllib.parse import unquote, urlsplit

from vault.errors import Misconfigured
from vault.secret import Secret


def login_of(dsn: Secret) -> tuple[str, str]:
    """User and password of a database address."""
    try:
        parts = urlsplit(dsn.reveal())
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        raise Misconfigured("That is not a PostgreSQL address.") from None
    if not user:
        raise Misconfigured("The database address names no user.")
    return user, password


def hosts_of(dsn: Secret) -> list[tuple[str, int]]:
    """The hosts and ports of a database address; a socket's folder is none."""
    default = 5432
    try:
        parts = urlsplit(dsn.reveal())
        listed = parts.netloc.rpartition("@")[2].split(",")
        pairs = [urlsplit(f"//{one}") for one in listed if one]
        return [(one.hostname, one.port or default) for one in pairs if one.hostname]
    except ValueError:
        raise Misconfigured("That is not a PostgreSQL address.") from None


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for a password (RFC 5803): the password is never sent to it."""
    salt, rounds = os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${rounds}:{text[0]}${text[1]}:{text[2]}"
