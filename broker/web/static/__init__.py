"""The files that pages refer to, read once; nothing else in the service serves files."""

import hashlib
from functools import cache
from importlib import resources
from typing import Final

# The vendored style sheet, byte for byte as its authors published it.
PICO_SHA256: Final = "fbc9a63fc9fc9f72d12fd7fc9806e11fa9f77ae4f9cad146b27003a1119ba3db"


@cache
def pico() -> bytes:
    """Pico CSS 2.1.1."""
    content = _read("pico.min.css")
    if hashlib.sha256(content).hexdigest() != PICO_SHA256:
        raise RuntimeError("the vendored style sheet is not the one that was vendored")
    return content


@cache
def connect_style() -> bytes:
    """What the connect pages add to Pico."""
    return _read("connect.css")


@cache
def connect_style_url() -> str:
    """Names the content, so that a browser never shows a page in the clothes of another version."""
    return f"/static/connect.css?v={hashlib.sha256(connect_style()).hexdigest()[:16]}"


def _read(name: str) -> bytes:
    return (resources.files(__name__) / name).read_bytes()
