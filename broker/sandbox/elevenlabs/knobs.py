"""What can be set of the stand-in for ElevenLabs.

* Each is put whole; what is left out has its default again. An unknown field is refused.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

START_WITHIN: Final = 15 * 60.0  # seconds that a signed URL or a token may wait


class SocketFaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with the conversation's socket; by default nothing does."""

    refuse: Annotated[int, Meta(ge=400, le=599)] | None = None  # answer the handshake with this
    latency: Annotated[float, Meta(ge=0, le=600)] = 0  # seconds before the metadata
    silent: bool = False  # never say the metadata
    garbled: bool = False  # a frame that is no JSON comes first
    at: Literal["initiation", "message"] = "initiation"  # when the next two happen
    close: Annotated[int, Meta(ge=1000, le=4999)] | None = None  # close with this code
    reason: str = ""
    drop: bool = False  # cut the connection without a word
    times: Annotated[int, Meta(ge=1)] | None = None  # conversations; None: until healed


class Behaviour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ElevenLabs' own behaviour is not documented, the sandbox lets you choose."""

    # May a client that holds a signed URL name another environment or branch than was signed?
    client_chooses_environment: bool = False
    ping_interval: Annotated[float, Meta(gt=0)] = 2.0  # seconds
    initiation_timeout: Annotated[float, Meta(gt=0)] = 10.0  # seconds for the first frame
    webhook_timeout: Annotated[float, Meta(gt=0)] = 2.0  # seconds for the pre-call webhook
    start_within: Annotated[float, Meta(gt=0)] = START_WITHIN
    echo_audio: bool = False  # say back what is heard
    # Does a leak end the conversation, before the tool is called, or is it only written down?
    on_leak: Literal["fail", "record"] = "fail"


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that an agent does: call a tool, say something, or hang up."""

    tool: str | None = None
    arguments: dict[str, Any] = {}
    say: str | None = None
    end: bool = False


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent does when it hears something that the pattern finds."""

    when: str
    do: list[Step]
