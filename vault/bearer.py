"""The bearer strings that we issue: recognisable at sight, and not guessable.

* 256 random bits each, so a keyed hash is enough to store them; a password hash would only be slow.
* The prefix and the checksum tell scanners, people and us a mistyped or foreign string before
  any look-up. They prove nothing: who may do what is decided by looking up the ``fingerprint``.
* There is one spelling of a bearer: what is not exactly it is refused, and no reason repeats it.

The text::

    kt_ | 43 base62 characters: 32 random bytes, big-endian | 6: CRC-32 of everything before

Base62 is ``0-9A-Za-z``, padded on the left with ``0``; the CRC is zlib's.
"""

import os
import re
import string
import zlib
from collections.abc import Callable
from typing import Final, Literal, final

from vault.errors import Invalid
from vault.seal import Keyed
from vault.secret import Secret

Kind = Literal["api_key", "operator", "grant", "handle", "sealed", "connect"]

PREFIXES: Final[dict[Kind, str]] = {
    "api_key": "kt_",
    "operator": "kto_",
    "grant": "ktg_",
    "handle": "kth_",
    "sealed": "kts_",
    "connect": "ktc_",
}
RANDOM_SIZE: Final = 32

_KINDS: dict[str, Kind] = {prefix: kind for kind, prefix in PREFIXES.items()}
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Two digits at a time; numbers are divided by the value of four, which is the dearer part of it.
_PAIRS = tuple(one + other for one in _ALPHABET for other in _ALPHABET)
_FOUR = len(_PAIRS) ** 2
_BODY_LENGTH = 43
_CHECKSUM_LENGTH = 6
_PLAIN = re.compile(
    f"({'|'.join(_KINDS)})([0-9A-Za-z]{{{_BODY_LENGTH}}})([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)


def generate(kind: Kind, *, random: Callable[[int], bytes] = os.urandom) -> Secret:
    """Make a new one."""
    number = int.from_bytes(random(RANDOM_SIZE), "big")
    body = PREFIXES[kind] + _base62(number, _BODY_LENGTH)
    return Secret(body + _checksum(body))


def parse(text: str | Secret) -> Kind:
    """Return what kind of bearer this is; ``Invalid`` says what is wrong with it."""
    bearer = text if isinstance(text, str) else text.reveal_bytes().decode("ascii", "replace")
    plain = _PLAIN.fullmatch(bearer)
    if plain is None:
        raise Invalid(_oddity(bearer))
    prefix, body, checksum = plain.groups()
    # The alphabet is in ASCII order, so equally long texts compare like their numbers.
    if body > _LARGEST:
        raise Invalid("This key is larger than any key.")
    # No constant time: the checksum holds nothing that the text before it does not.
    if _checksum(prefix + body) != checksum:
        raise Invalid("This key's checksum does not match: is there a typing mistake?")
    return _KINDS[prefix]


def kind_of(text: str | Secret) -> Kind | None:
    """Return what kind of bearer this is, or nothing where it is none of ours."""
    try:
        return parse(text)
    except Invalid:
        return None


@final
class Fingerprints:
    """What is stored and looked up instead of bearers: useless without the pepper."""

    def __init__(self, pepper: bytes) -> None:
        self._keyed = Keyed(pepper)

    def of(self, bearer: str | Secret) -> bytes:
        # surrogatepass: a header may hold any bytes, and an encoding error would carry the text
        # along.
        return self._keyed.hash(
            bearer.encode("utf-8", "surrogatepass")
            if isinstance(bearer, str)
            else bearer.reveal_bytes()
        )


def fingerprint(pepper: bytes, bearer: str | Secret) -> bytes:
    """The same, where one is all that is wanted."""
    return Fingerprints(pepper).of(bearer)


def _oddity(bearer: str) -> str:
    """What of the form is wrong with a text that has it not."""
    prefix = bearer[: bearer.find("_") + 1]
    if prefix not in _KINDS:
        return "This is not one of our keys: the prefix is another one."
    if len(bearer) != len(prefix) + _BODY_LENGTH + _CHECKSUM_LENGTH:
        return "This key has the wrong length: was it cut?"
    return "This key holds a character that no key has."


def _checksum(body: str) -> str:
    first, four = divmod(zlib.crc32(body.encode("ascii")), _FOUR)
    second, third = divmod(four, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[second] + _PAIRS[third]


def _base62(number: int, length: int) -> str:
    pairs: list[str] = []
    for _ in range(-(-length // 4)):
        number, four = divmod(number, _FOUR)
        two, last = divmod(four, len(_PAIRS))
        pairs += _PAIRS[last], _PAIRS[two]
    return "".join(reversed(pairs))[-length:]


_LARGEST = _base62(2 ** (8 * RANDOM_SIZE) - 1, _BODY_LENGTH)
