"""Text from outside, made fit to be shown: what somebody else chose cannot disguise itself.

* ``printable`` runs on everything that a template prints. It takes out control characters, marks
  that turn the direction of writing, and characters that cannot be seen; it thins out piles of
  accents. Emoji and every script in use stay whole.
* ``name`` cuts to a length and isolates (``<bdi>``), so that a name written from right to left
  turns nothing but itself.
"""

import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from markupsafe import Markup, escape

NAME: Final = 80
MAX_URL: Final = 2048
ACCENTS: Final = 3
WORKSPACE: Final = "the app that sent you here"
PROVIDER: Final = "the other service"
# They join the parts of an emoji, and letters in Persian and in several Indian scripts.
_JOINERS: Final = "\u200c\u200d"
# Letters and marks, by their category, that draw nothing.
_UNSEEN: Final = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_BLANK: Final = ("Zs", "Zl", "Zp")
_NOT_SHOWN: Final = ("Cc", "Cf", "Cs", "Co", "Cn")


def printable(value: object) -> object:
    """Clean a text; leave markup, which is ours, and everything else as it is."""
    if type(value) is not str:
        return value
    return " ".join("".join(_seen(unicodedata.normalize("NFC", value))).split()).strip(_JOINERS)


def short(text: str, limit: int = NAME) -> str:
    """Clean and cut; what was cut shows as an ellipsis."""
    clean = str(printable(text))
    if len(clean) <= limit:
        return clean
    return clean[: limit - 1].rstrip(_JOINERS + " ") + "…"


def name(text: str, limit: int = NAME) -> Markup:
    """A name from outside, to stand within a sentence of ours."""
    return Markup("<bdi>{}</bdi>").format(short(text, limit))


def named(sentence: str, workspace: str, provider: str) -> Markup:
    """Fill the names into one of our own sentences."""
    who = name(workspace) if short(workspace) else escape(WORKSPACE)
    whose = name(provider) if short(provider) else escape(PROVIDER)
    filled = escape(sentence).format(workspace=who, provider=whose)
    return filled[:1].upper() + filled[1:]


def initial(text: str) -> str:
    """One letter to stand for a name."""
    return next((one.upper()[0] for one in short(text) if one.isalnum()), "·")


def web_url(url: str) -> str:
    """Return the address, if a link or a redirect may lead there."""
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if not plain or parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("a link leads to an http or https address")
    if "@" in parts.netloc or len(url) > MAX_URL:
        raise ValueError("a link's address has no user in it, and an end")
    return url


def _seen(text: str) -> Iterator[str]:
    accents = 0
    for one in text:
        category = unicodedata.category(one)
        accents = accents + 1 if category in ("Mn", "Me") else 0
        if one in "\t\n\r" or category in _BLANK:
            yield " "
        elif accents <= ACCENTS and (
            one in _JOINERS or (category not in _NOT_SHOWN and one not in _UNSEEN)
        ):
            yield one
