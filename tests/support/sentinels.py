"""Looking for secrets in what a service leaves behind, in every form that things are written in."""

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

Connection = Any  # asyncpg ships no types
Secrets = Mapping[str, bytes]

LOUD: Final = (
    "alter system set log_statement = 'all'",
    "alter system set log_duration = on",
    "alter system set log_connections = on",
    "alter system set log_min_duration_statement = 0",
    "alter system set log_parameter_max_length = -1",
    "alter system set log_parameter_max_length_on_error = -1",
    # What the command line has set is overruled by the role alone.
    "alter role keyturn_app set log_min_messages = 'debug1'",
    "alter role keyturn_app set log_min_error_statement = 'debug1'",
    "alter role keyturn_app set log_error_verbosity = 'verbose'",
    "select pg_reload_conf()",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'keyturn_app'",
)


def of_processes(what: str, name: str = "") -> list[bytes]:
    """One file of every process there is, or of those of one name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name in (folder / "comm").read_text():
                found.append((folder / what).read_bytes())
        except OSError:
            continue
    return found


async def rows_of(admin: Connection) -> list[bytes]:
    """Every row of every table as text: what is compressed in the files is not in here."""
    tables = await admin.fetch(
        "select oid::regclass::text from pg_class where relkind in ('r', 'm')"
    )
    found = []
    for (table,) in tables:
        rows = await admin.fetch(f"select t::text from {table} t")  # noqa: S608 - from the catalogue
        found.append("\n".join(row[0] for row in rows).encode())
    return found


def names_in(content: bytes, secrets: Secrets, *, deeper: bool = True) -> set[str]:
    """Which of the secrets are in there, in any of the forms that things are written down in."""
    plain = (content, content.replace(b"\0", b""))  # the second: UTF-16, either way round
    hexadecimal = content.lower()
    base64_text = content.translate(bytes.maketrans(b"-_", b"+/"))
    found = set()
    for name, secret in secrets.items():
        if (
            any(secret in one for one in plain)
            or secret.hex().encode() in hexadecimal
            or any(form in base64_text for form in base64_forms(secret))
            or any(form in content for form in _escaped(secret))
        ):
            found.add(name)
    if deeper:
        for inner in _unzipped(content):
            found |= names_in(inner, secrets, deeper=False)
    return found


def _escaped(secret: bytes) -> Iterator[bytes]:
    """As it stands in an address, a form, JSON and Python, where that differs."""
    text = secret.decode("latin-1")
    for form in {quote(text, safe=""), quote(text), quote_plus(text), json.dumps(text)[1:-1]}:
        if form != text:
            yield form.encode()


def base64_forms(secret: bytes) -> Iterator[bytes]:
    """What base64 makes of a secret in the middle of something: one form for each offset."""
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + secret).rstrip(b"=")
        # The letters at both ends also hold bits of what stands beside it.
        yield text[-(-offset * 8 // 6) : len(text) - (1 if (offset + len(secret)) % 3 else 0)]


def _unzipped(content: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"\x1f\x8b\x08", content):
        try:
            yield zlib.decompressobj(wbits=31).decompress(content[match.start() :], 2**24)
        except zlib.error:
            continue
