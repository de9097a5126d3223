"""One conversation: its variables, its environment, what was said, and how it ends.

* The environment and the branch are fixed when it starts.
* Every variable that the prompt, the first message or any tool names has to be there at the
  start; a missing one ends the conversation with 1008 before a word is said.
* What a ``secret__`` variable holds is shown to nobody: ``<REDACTED>``. Where it would be seen
  all the same, that is a leak, and by default the end.
* What the agent says is filled in as a prompt is; ``{result}`` in it is all that a model would
  have seen of the last tool's answer.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from msgspec import Struct

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import (
    PRODUCTION,
    REDACTED,
    SECRET,
    Account,
    Stored,
    World,
    secrets_of,
)
from broker.sandbox.elevenlabs.leaks import Where
from broker.sandbox.elevenlabs.templates import (
    SYSTEM,
    Filling,
    Unconfigured,
    as_text,
    names_in,
    needed_in,
    secret_names,
)

CONTRACT: Final = 1008  # the close code of whoever breaks the rules
NORMAL: Final = 1000
LEAK: Final = "sandbox_leak"  # the error type that no real conversation has
AUDIO_FORMAT: Final = "pcm_16000"
SILENCE: Final = bytes(3_200)  # a tenth of a second
ALWAYS_SENT: Final = frozenset(
    {"conversation_initiation_metadata", "ping", "client_tool_call", "error"}
)
# Only an agent that asks for it shows its client what the tools answered.
ON_REQUEST: Final = frozenset({"agent_tool_response_full_payload"})

Status = Literal["initiated", "in-progress", "processing", "done", "failed"]


class Failed(Exception):
    """A conversation that cannot go on."""

    def __init__(self, error_type: str, reason: str, code: int = CONTRACT) -> None:
        super().__init__(reason)
        self.error_type = error_type
        self.reason = reason
        self.code = code


class Hangup(Struct, frozen=True):
    """The last thing that goes to the client."""

    code: int
    reason: str


class Conversation:
    """A conversation, from the minting of its id to its end."""

    def __init__(
        self, world: World, account: Account, agent: Stored, conversation_id: str, source: str
    ) -> None:
        self.world = world
        self.account = account
        self.agent = agent
        self.id = conversation_id
        self.source = source
        self.status: Status = "initiated"
        self.environment: str | None = None  # None: whoever starts it may choose
        self.branch_id: str | None = None
        self.variables: dict[str, Any] = {}
        self.initiation: dict[str, Any] = {}
        self.initiations = 0  # frames and requests that said who the user is
        self.phone_call: dict[str, Any] | None = None
        self.transcript: list[dict[str, Any]] = []
        self.tools = agents.tools_of(account, agent)
        self.text_only = False
        self.last_result = ""
        self.heard_audio = 0  # bytes
        self.pongs = 0
        self.room: str | None = None  # the one that was come to at the WebRTC signalling
        self.failure: Failed | None = None
        self.started_at = world.now()
        self.ended_at: float | None = None
        self.outbox: asyncio.Queue[dict[str, Any] | str | Hangup] | None = None
        self.waiting: dict[str, asyncio.Future[tuple[str, bool]]] = {}  # client tools
        self.after_end: Callable[[Conversation], Awaitable[None]] | None = None
        self.turn = asyncio.Lock()
        self._events = 0

    def start(self, initiation: Mapping[str, Any], default: str = PRODUCTION) -> None:
        """Take what is said at the start, or raise ``Failed``."""
        self.initiations += 1
        self.initiation = dict(initiation)
        variables = initiation.get("dynamic_variables") or {}
        self._inspect(initiation)
        if not isinstance(variables, dict):
            raise Failed("missing_fields", "dynamic_variables must be an object")
        for name, value in variables.items():
            if name.startswith(SYSTEM):
                raise Failed("invalid_message", f"The name '{name}' is reserved")
            if not isinstance(value, str | int | float | bool | None):
                raise Failed("invalid_message", f"The value of '{name}' must be a plain one")
        self.environment = self.environment or initiation.get("environment") or default
        self.branch_id = self.branch_id or initiation.get("branch_id")
        self.variables = dict(variables)
        self.started_at = self.world.now()
        self._check_variables()
        self._check_overrides()
        self._inspect_prompt()
        self.status = "in-progress"

    def greet(self) -> None:
        """Say the first message."""
        override = self._override("agent", "first_message")
        _, first = agents.prompt_of(self.agent)
        if first := (override if isinstance(override, str) else first):
            self.say(first)

    def hear(self, text: str, *, spoken: bool) -> None:
        """Take what the user says."""
        self._write({"role": "user", "message": text})
        if spoken:
            self.emit("user_transcript", {"user_transcript": text}, "user_transcription_event")

    def say(self, template: str) -> None:
        """Let the agent say something."""
        try:
            text = self.filling().text(template).replace("{result}", self.last_result)
        except Unconfigured as problem:
            raise Failed("missing_dynamic_variable", str(problem)) from None
        self._write({"role": "agent", "message": text})
        self.emit("agent_response", {"agent_response": text}, "agent_response_event")
        if not self.text_only:
            self.speak(SILENCE)

    def speak(self, audio: bytes) -> None:
        """Send audio to the client."""
        encoded = base64.b64encode(audio).decode()
        self.emit("audio", {"audio_base_64": encoded}, "audio_event")

    def emit(self, kind: str, event: dict[str, Any], key: str | None = None) -> None:
        """Send an event to the client, if one is there and wants it."""
        wanted = agents.within(self.agent, "conversation_config", "conversation", "client_events")
        if kind not in ALWAYS_SENT:
            if wanted is not None and kind not in wanted:
                return
            if wanted is None and kind in ON_REQUEST:
                return
        if self.outbox is None:
            return
        self._events += 1
        frame = {"type": kind, key or f"{kind}_event": {**event, "event_id": self._events}}
        if kind != "audio":
            self.look("event", json.dumps(frame))
        self.outbox.put_nowait(frame)

    def finish(self, code: int = NORMAL, reason: str = "", failure: Failed | None = None) -> None:
        """End it, once; what follows the end runs in the background."""
        if self.ended_at is not None:
            return
        self.ended_at = self.world.now()
        self.failure = failure
        self.status = "failed" if failure else "done"
        for future in self.waiting.values():
            if not future.done():
                future.set_result(("The conversation ended.", True))
        if self.outbox is not None:
            self.outbox.put_nowait(Hangup(code, reason))
        if self.after_end is not None:
            self.world.in_background(asyncio.ensure_future(self._followed(self.after_end)))

    def fail(self, failure: Failed) -> None:
        """End it for breaking the rules: first the error event, then the close code."""
        error = {
            "code": failure.code,
            "message": failure.reason,
            "error_type": failure.error_type,
            "reason": failure.reason,
        }
        self.emit("error", error)
        self.finish(failure.code, failure.reason, failure)

    def filling(self) -> Filling:
        """The values as they are now."""
        known = {**self.variables, **self._system()}
        return Filling(self.account, self.environment or PRODUCTION, known)

    def look(self, where: Where, text: str, *, tool: str | None = None) -> None:
        """Search a text for this conversation's secrets; a leak may raise ``Failed``."""
        known = secrets_of(self.variables)
        leaks = self.world.leaks
        self._leaked(where, leaks.look(where, text, known, conversation_id=self.id, tool=tool))

    def named(self, where: Where, names: Iterable[str], *, tool: str | None = None) -> None:
        """Note that a configuration names secret variables here; may raise ``Failed``."""
        found = sorted(set(names))
        self.world.leaks.named(where, found, conversation_id=self.id, tool=tool)
        self._leaked(where, found)

    def write_tool(self, call: dict[str, Any], result: dict[str, Any]) -> None:
        """Put a tool call and its result into the transcript."""
        self._write({"role": "agent", "message": None, "tool_calls": [call]}, inspect=False)
        self._write({"role": "agent", "message": None, "tool_results": [result]}, inspect=False)

    def shown_variables(self) -> dict[str, Any]:
        return {
            name: REDACTED if name.startswith(SECRET) else value
            for name, value in (self.variables | self._system()).items()
        }

    @property
    def seconds(self) -> int:
        return int((self.ended_at or self.world.now()) - self.started_at)

    async def _followed(self, after: Callable[["Conversation"], Awaitable[None]]) -> None:
        await after(self)

    def _leaked(self, where: Where, names: list[str]) -> None:
        if names and self.ended_at is None and self.world.behaviour.on_leak == "fail":
            raise Failed(LEAK, f"Sandbox: '{names[0]}' is a secret and stands in the {where}")

    def _write(self, entry: dict[str, Any], *, inspect: bool = True) -> None:
        if inspect:
            self.look("transcript", str(entry.get("message") or ""))
        self.transcript.append({"time_in_call_secs": max(0, self.seconds), **entry})

    def _check_variables(self) -> None:
        prompt, first = agents.prompt_of(self.agent)
        asked = {
            "tools": {name for one in self.tools.values() for name in needed_in(one_needs(one))},
            "first message": {one for one in names_in(first) if not one.startswith(SYSTEM)},
            "prompt": {one for one in names_in(prompt) if not one.startswith(SYSTEM)},
        }
        for place, names in asked.items():
            if missing := sorted(names - self.variables.keys()):
                listed = ", ".join(f"'{name}'" for name in missing)
                raise Failed(
                    "missing_dynamic_variable",
                    f"Missing required dynamic variables in {place}: {{{listed}}}",
                )

    def _check_overrides(self) -> None:
        """Refuse an override that the agent does not open."""
        opened = agents.within(
            self.agent, "platform_settings", "overrides", "conversation_config_override"
        )
        given = self.initiation.get("conversation_config_override") or {}
        self.text_only = bool(
            given.get("text_only")  # where the Python SDK puts it
            or self._override("conversation", "text_only")
            or agents.within(self.agent, "conversation_config", "conversation", "text_only")
        )
        for path in _leaves(given):
            if path[-1] != "text_only" and not _at(opened or {}, path):
                raise Failed(
                    "override_error", f"Override for field '{path[-1]}' is not allowed by config."
                )

    def _override(self, *path: str) -> Any:  # noqa: ANN401 - any JSON
        return _at(self.initiation.get("conversation_config_override") or {}, path)

    def _inspect(self, initiation: Mapping[str, Any]) -> None:
        """Look for secrets where the model or the log would see them."""
        variables = initiation.get("dynamic_variables")
        variables = variables if isinstance(variables, dict) else {}
        known = list(secrets_of(variables))
        for name, value in variables.items():
            if not name.startswith(SECRET):
                leaks = self.world.leaks
                found = leaks.look("variable", as_text(value), known, conversation_id=self.id)
                self._leaked("variable", found)
        rest = {name: one for name, one in initiation.items() if name != "dynamic_variables"}
        found = self.world.leaks.look("request", json.dumps(rest), known, conversation_id=self.id)
        self._leaked("request", found)

    def _inspect_prompt(self) -> None:
        prompt, first = agents.prompt_of(self.agent)
        override = self._override("agent", "prompt", "prompt")
        texts: tuple[tuple[Where, str], ...] = (
            ("prompt", override if isinstance(override, str) else prompt),
            ("first_message", first),
        )
        for where, text in texts:
            self.named(where, secret_names(text))
            try:
                self.look(where, self.filling().text(text))
            except Unconfigured as problem:
                raise Failed("missing_dynamic_variable", str(problem)) from None

    def _system(self) -> dict[str, Any]:
        call = self.phone_call or {}
        now = datetime.fromtimestamp(self.ended_at or self.world.now(), UTC)
        turns = sum(1 for one in self.transcript if one["role"] == "agent" and one.get("message"))
        inbound = call.get("direction") == "inbound"
        numbers = (call.get("external_number", ""), call.get("agent_number", ""))
        caller, called = numbers if inbound else numbers[::-1]
        return {
            "system__agent_id": self.agent.id,
            "system__current_agent_id": self.agent.id,
            "system__conversation_id": self.id,
            "system__caller_id": caller,
            "system__called_number": called,
            "system__call_sid": call.get("call_sid", ""),
            "system__call_duration_secs": self.seconds,
            "system__time_utc": now.isoformat(),
            "system__time": now.strftime("%A, %H:%M %d %B %Y"),
            "system__timezone": "UTC",
            "system__agent_turns": turns,
            "system__is_text_only": self.text_only,
        }


def one_needs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a tool's configuration that is filled in when the tool is called."""
    return config.get("api_schema") or {}


def _leaves(given: Mapping[str, Any], *path: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, value in given.items():
        if isinstance(value, dict):
            found += _leaves(value, *path, name)
        elif value is not None:
            found.append((*path, name))
    return found


def _at(held: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - any JSON
    for name in path:
        held = held.get(name) if isinstance(held, dict) else None
    return held
