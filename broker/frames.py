"""What a client may say before a conversation starts, and what it may hear. Pure.

* The first frame is built from an allow-list. What the mint defined is final: environment, branch,
  version, user, mocks and every variable. The client sets the variables that are open to it and
  the overrides that the profile lists. Whatever else it sends is dropped, as official SDKs always
  send a little of it; what it may set, but says wrongly, is refused with 1008.
* ``secret__*``, ``system__*`` and ``keyturn_*`` are open to no client, whatever an admission says,
  and no value of a client's may name a secret: an agent could be made to say it aloud.
* A second initiation is found however it is written: by escapes, twice the key, as bytes.
* What goes to the client passes a ``Veil``: where a secret of this conversation stands in a frame,
  it is struck out. That is the last wall; on every road that is known, none gets so far.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from broker.admission import Admission
from vault.secret import Secret

INITIATION: Final = "conversation_initiation_client_data"
METADATA: Final = "conversation_initiation_metadata"
VARIABLES: Final = "dynamic_variables"
OVERRIDE: Final = "conversation_config_override"
SECRET_PREFIX: Final = "secret__"  # noqa: S105 - how a name begins
CLOSED_PREFIXES: Final = (SECRET_PREFIX, "system__", "keyturn_")
MAX_FIRST: Final = 64 * 1024  # characters of a client's first frame
MAX_VALUE: Final = 8_000  # characters of a variable's value
MIN_VEILED: Final = 8  # characters; a shorter value stands in too many frames by chance
STRUCK_OUT: Final = "<REDACTED>"  # as ElevenLabs shows a secret variable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Refused(Exception):
    """What the client sent ends the conversation. ``reason`` goes into the close frame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def first_frame(admission: Admission, unverified: str | bytes) -> Secret:
    """Build the first frame for the upstream from the mint's and the client's."""
    said = _initiation(unverified)
    frame = dict(admission.first_frame)
    frame["type"] = INITIATION
    variables = {**frame.get(VARIABLES, {}), **_variables(admission, said.get(VARIABLES))}
    overrides = _merged(frame.get(OVERRIDE, {}), _overrides(admission, said.get(OVERRIDE)))
    frame[VARIABLES] = variables
    if overrides:
        frame[OVERRIDE] = overrides
    return Secret(_encode(frame))


def _initiation(unverified: str | bytes) -> dict[str, Any]:
    if len(unverified) > MAX_FIRST:
        raise Refused("The first frame is too long")
    try:
        said = _decode(unverified)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("type") != INITIATION:
        raise Refused(f"The first frame must be {INITIATION}")
    return said


def _variables(admission: Admission, said: object) -> dict[str, str | int | float | bool]:
    found = {}
    for name, value in _object(said, VARIABLES).items():
        if name not in admission.client_variables or name.startswith(CLOSED_PREFIXES):
            continue
        # By type, not by what it inherits from: nothing else is among what JSON can say.
        if type(value) not in (str, int, float, bool):
            raise Refused("A dynamic variable is a string, a number or a boolean")
        if isinstance(value, str) and len(value) > MAX_VALUE:
            raise Refused("The value of a dynamic variable is too long")
        found[name] = value
    _refuse_secrets_named(found)
    return found


def _overrides(admission: Admission, said: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    given = _object(said, OVERRIDE)
    for path in admission.overrides:
        *above, last = path.split(".")
        source: Any = given
        for part in above:
            source = source.get(part) if isinstance(source, dict) else None
        if not isinstance(source, dict) or source.get(last) is None:
            continue
        target = found
        for part in above:
            target = target.setdefault(part, {})
        target[last] = source[last]
    _refuse_secrets_named(found)
    return found


def _object(said: object, name: str) -> dict[str, Any]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise Refused(f"{name} is an object")
    return said


def _refuse_secrets_named(said: Mapping[str, Any]) -> None:
    if SECRET_PREFIX.encode() in _encode(said):
        raise Refused("A client may not name a secret")


def _merged(mint: object, client: object) -> Any:  # noqa: ANN401 - any JSON
    """Lay the client's under the mint's: where both say something, the mint has said it."""
    if not isinstance(mint, Mapping) or not isinstance(client, Mapping):
        return mint
    merged = {**client, **mint}
    for name in mint.keys() & client.keys():
        merged[name] = _merged(mint[name], client[name])
    return merged


def is_initiation(unverified: str | bytes) -> bool:
    """Might whoever reads this frame take it for another first one?"""
    if isinstance(unverified, str):
        # A JSON string that means the word holds it, or an escape. Most frames hold neither.
        if INITIATION not in unverified and "\\" not in unverified:
            return False
    elif b"{" not in unverified[:16]:
        return False
    try:
        return _says_so(json.loads(unverified, object_pairs_hook=_Pairs))
    except (ValueError, RecursionError):
        # Nobody reads this as JSON. Text that has the word in it is kept back all the same.
        return isinstance(unverified, str) and INITIATION in unverified


class _Pairs(tuple[tuple[str, Any], ...]):
    """An object's members, those with the same name too: readers differ in which they take."""

    __slots__ = ()


def _says_so(read: object) -> bool:
    return isinstance(read, _Pairs) and ("type", INITIATION) in [
        (name, value) for name, value in read if name == "type"
    ]


def upstream_id(frame: str | bytes) -> str | None:
    """Read the conversation's id from the upstream's first frame; ``None``: it is another one."""
    if METADATA not in frame if isinstance(frame, str) else METADATA.encode() not in frame:
        return None
    try:
        return msgspec.json.decode(frame, type=_Metadata).event.conversation_id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _Event(msgspec.Struct):
    conversation_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _Metadata(msgspec.Struct, tag_field="type", tag=METADATA):
    event: _Event = msgspec.field(name=f"{METADATA}_event")


class Veil:
    """Strikes one conversation's secrets out of what goes to its client."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        secrets = set(_secrets(first))
        # As they are, and as they stand inside a JSON string.
        forms = secrets | {json.dumps(value)[1:-1] for value in secrets}
        self._texts = sorted(forms, key=len, reverse=True)  # the longer may hold the shorter
        self._bytes = [text.encode() for text in self._texts]
        self.struck = 0

    def over(self, frame: str | bytes) -> str | bytes:
        """Return the frame without any of them."""
        if isinstance(frame, str):
            for text in self._texts:
                if text in frame:
                    self.struck += 1
                    frame = frame.replace(text, STRUCK_OUT)
            return frame
        for data in self._bytes:
            if data in frame:
                self.struck += 1
                frame = frame.replace(data, STRUCK_OUT.encode())
        return frame

    def __repr__(self) -> str:
        return "Veil(***)"


def _secrets(first: Mapping[str, Any]) -> Iterable[str]:
    for name, value in first.get(VARIABLES, {}).items():
        if name.startswith(SECRET_PREFIX) and isinstance(value, str):
            if len(value) >= MIN_VEILED:
                yield value
            # A whole header value: the credential in it counts by itself.
            _, _, bare = value.partition(" ")
            if len(bare) >= MIN_VEILED:
                yield bare
