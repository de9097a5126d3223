"""Webhooks out: the signed ones after a call, and the one before it.

* A post-call webhook carries ``ElevenLabs-Signature: t=<unix>,v0=<hex>``, an HMAC-SHA256 over
  ``{t}.{body}``, and the conversation as ``GET`` shows it. An age, a forged signature and a
  repetition can be asked for. Audio goes out in chunks.
* Ten failures in a row disable a webhook.
* The pre-call webhook has no signature, only the headers that the settings name; it has two
  seconds. What it answers is the conversation's beginning.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import time
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.sandbox.elevenlabs import agents, chunked
from broker.sandbox.elevenlabs.account import Account, Stored, Webhook, World
from broker.sandbox.elevenlabs.conversations import Conversation
from broker.sandbox.elevenlabs.history import shown
from broker.sandbox.elevenlabs.templates import Filling, Unconfigured
from vault.egress import Request, Timeouts
from vault.errors import VaultError

TIMEOUT: Final = Timeouts(connect=5, read=10, total=15)
MAX_FAILURES: Final = 10
EVENTS: Final = {
    "transcript": "post_call_transcription",
    "audio": "post_call_audio",
    "call_initiation_failure": "call_initiation_failure",
}
# Some base64, longer than a chunk; nobody spoke.
AUDIO: Final = base64.b64encode(bytes(12_000)).decode()
INITIATION: Final = "conversation_initiation_client_data_from_webhook"
DEFAULT_EVENTS: Final = ("transcript",)

JsonHeaders = tuple[tuple[str, str], ...]


class Delivering(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How post-call webhooks are sent; by default as they should be."""

    age: float = 0  # seconds that the signature's time lies back; negative: in the future
    forged: bool = False  # signed with another secret
    unsigned: bool = False
    copies: int = 1


class Delivered(Struct, frozen=True):
    """What became of one webhook; no status: it could not be delivered."""

    type: str
    status: int | None


class PreCall(Struct, frozen=True):
    """What the pre-call webhook answered, or why it did not."""

    initiation: dict[str, Any] | None
    status: int | None
    milliseconds: int
    problem: str | None = None


async def after_call(conversation: Conversation, how: Delivering | None = None) -> list[Delivered]:
    """Tell the workspace's webhook that the conversation is over."""
    own = agents.within(conversation.agent, "platform_settings", "workspace_overrides", "webhooks")
    settings = own or conversation.account.settings.get("webhooks") or {}
    webhook = conversation.account.webhooks.get(settings.get("post_call_webhook_id") or "")
    if webhook is None or webhook.is_disabled:
        return []
    wanted = settings.get("events") or DEFAULT_EVENTS
    sent: list[Delivered] = []
    for event in wanted:
        failed = conversation.failure is not None and conversation.phone_call is not None
        if event not in EVENTS or (event == "call_initiation_failure") != failed:
            continue
        body = _body(conversation, event)
        conversation.look("webhook", body.decode())
        for _ in range((how or Delivering()).copies):
            status = await _deliver(conversation.world, webhook, event, body, how or Delivering())
            sent.append(Delivered(EVENTS[event], status))
    return sent


async def tell(conversation: Conversation) -> None:
    """Tell them as a conversation that ends by itself does."""
    await after_call(conversation)


async def before_call(
    world: World, account: Account, agent: Stored, environment: str, call: dict[str, str]
) -> PreCall | None:
    """Ask the pre-call webhook who calls; None where the agent does not use it."""
    if (hook := _hook(account, agent)) is None:
        return None
    started = time.monotonic()
    seconds = world.behaviour.webhook_timeout
    try:
        filling = Filling(account, environment, {})
        headers = {
            name: filling.header(value)
            for name, value in (hook.get("request_headers") or {}).items()
        }
        reply = await world.egress.call(
            "event",
            Request(
                method="POST",
                url=world.rerouted(filling.text(hook["url"])),
                headers=_with_type(headers),
                body=json.dumps(call).encode(),
                timeout=Timeouts(connect=seconds, wait=seconds, read=seconds, total=seconds),
            ),
        )
    except (VaultError, Unconfigured) as error:
        return PreCall(None, None, _since(started), str(error))
    took = _since(started)
    try:
        answer = msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError:
        return PreCall(None, reply.status, took, "The webhook's answer is no JSON object.")
    if reply.status != 200:  # noqa: PLR2004 - HTTP: OK
        return PreCall(None, reply.status, took, f"The webhook answered {reply.status}.")
    if answer.get("type") != "conversation_initiation_client_data":
        return PreCall(None, reply.status, took, "The webhook's answer has another 'type'.")
    return PreCall(answer, reply.status, took)


def _hook(account: Account, agent: Stored) -> dict[str, Any] | None:
    """The pre-call webhook of this agent, if it is set to use one: its own, or the workspace's."""
    name = "conversation_initiation_client_data_webhook"
    enabled = agents.within(agent, "platform_settings", "overrides", f"enable_{INITIATION}")
    own = agents.within(agent, "platform_settings", "workspace_overrides", name)
    found: dict[str, Any] | None = own or account.settings.get(name)
    return found if enabled else None


def signature(secret: str, body: bytes, at: int) -> str:
    """Write the header as ElevenLabs does."""
    mac = hmac.digest(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v0={mac.hex()}"


def _body(conversation: Conversation, event: str) -> bytes:
    data = shown(conversation)
    if event == "audio":
        kept = {name: data[name] for name in ("agent_id", "conversation_id")}
        data = {**kept, "full_audio": AUDIO}
    elif event == "call_initiation_failure":
        reason = conversation.failure.reason if conversation.failure else "unknown"
        kept = {name: data[name] for name in ("agent_id", "conversation_id")}
        data = {**kept, "failure_reason": reason, "metadata": data["metadata"]}
    envelope = {
        "type": EVENTS[event],
        "event_timestamp": conversation.world.seconds(),
        "data": data,
    }
    return json.dumps(envelope).encode()


async def _deliver(
    world: World, webhook: Webhook, event: str, body: bytes, how: Delivering
) -> int | None:
    headers = {str(name): str(one) for name, one in (webhook.request_headers or {}).items()}
    if not how.unsigned:
        secret = "forged" if how.forged else webhook.secret
        headers["ElevenLabs-Signature"] = signature(secret, body, int(world.now() - how.age))
    url, lines = world.rerouted(webhook.url), _with_type(headers)
    status: int | None = None
    with contextlib.suppress(VaultError, chunked.NotDelivered):
        if event == "audio":
            status = await chunked.post(url, lines, body, seconds=TIMEOUT.total)
        else:
            sent = Request(method="POST", url=url, headers=lines, body=body, timeout=TIMEOUT)
            status = (await world.egress.call("event", sent)).status
    _count(world, webhook, status)
    return status


def _count(world: World, webhook: Webhook, status: int | None) -> None:
    if status == 200:  # noqa: PLR2004 - nothing else counts as received
        webhook.failures = 0
        return
    webhook.failures += 1
    webhook.last_failure = (status, world.seconds())
    webhook.is_disabled = webhook.is_disabled or webhook.failures >= MAX_FAILURES


def _with_type(headers: dict[str, str]) -> JsonHeaders:
    kept = {name: value for name, value in headers.items() if name.lower() != "content-type"}
    return (("Content-Type", "application/json"), *kept.items())


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1_000)
