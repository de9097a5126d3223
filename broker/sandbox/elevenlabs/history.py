"""Conversations as ElevenLabs shows them afterwards: redacted, with their transcript."""

from typing import Any, Final

from broker.sandbox.elevenlabs.account import PRODUCTION
from broker.sandbox.elevenlabs.conversations import Conversation
from broker.sandbox.elevenlabs.wire import Answer, Request, Route, not_found, page

SOURCES: Final = frozenset(
    {
        "android_sdk",
        "exotel",
        "flutter_sdk",
        "js_sdk",
        "node_js_sdk",
        "python_sdk",
        "react_native_sdk",
        "react_sdk",
        "sip_trunk",
        "swift_sdk",
        "twilio",
        "whatsapp",
        "widget",
    }
)


async def list_conversations(request: Request) -> Answer:
    agent_id, user_id = request.one("agent_id"), request.one("user_id")
    found = [
        one
        for one in reversed(request.account.conversations.values())
        if one.status != "initiated"
        and agent_id in (None, one.agent.id)
        and user_id in (None, one.initiation.get("user_id"))
    ]
    cut, cursor = page(request, found, lambda one: str(one.id))
    return Answer(
        {
            "conversations": [_summary(one) for one in cut],
            "next_cursor": cursor,
            "has_more": cursor is not None,
        }
    )


async def get_conversation(request: Request) -> Answer:
    return Answer(shown(_conversation(request)))


async def delete_conversation(request: Request) -> Answer:
    del request.account.conversations[_conversation(request).id]
    return Answer({})


def shown(conversation: Conversation) -> dict[str, Any]:
    """A conversation, as the API and the post-call webhook show it."""
    given = conversation.initiation
    failure = conversation.failure
    return {
        "agent_id": conversation.agent.id,
        "agent_name": conversation.agent.config.get("name"),
        "conversation_id": conversation.id,
        "status": conversation.status,
        "user_id": given.get("user_id"),
        "branch_id": conversation.branch_id,
        "environment": conversation.environment or PRODUCTION,
        "transcript": conversation.transcript,
        "metadata": {
            "start_time_unix_secs": int(conversation.started_at),
            "call_duration_secs": conversation.seconds,
            "cost": 0,
            "cost_fiat": None,
            "termination_reason": failure.reason if failure else "",
            "error": {"code": failure.code, "reason": failure.reason} if failure else None,
            "phone_call": conversation.phone_call,
            "text_only": conversation.text_only,
            "conversation_initiation_source": source(conversation),
        },
        "analysis": {
            "call_successful": "failure" if failure else "success",
            "transcript_summary": f"{len(conversation.transcript)} entries.",
        },
        "conversation_initiation_client_data": {
            "conversation_config_override": given.get("conversation_config_override") or {},
            "custom_llm_extra_body": given.get("custom_llm_extra_body") or {},
            "user_id": given.get("user_id"),
            "branch_id": conversation.branch_id,
            "environment": conversation.environment or PRODUCTION,
            "dynamic_variables": conversation.shown_variables(),
        },
        "has_audio": False,
        "has_user_audio": conversation.heard_audio > 0,
        "has_response_audio": False,
        "has_auxiliary_audio": False,
    }


def source(conversation: Conversation) -> str:
    """Where the conversation came from."""
    info = conversation.initiation.get("source_info")
    named = info.get("source") if isinstance(info, dict) else None
    found = str(named or conversation.source)
    return found if found in SOURCES else "unknown"


def _summary(conversation: Conversation) -> dict[str, Any]:
    return {
        "agent_id": conversation.agent.id,
        "agent_name": conversation.agent.config.get("name"),
        "conversation_id": conversation.id,
        "start_time_unix_secs": int(conversation.started_at),
        "call_duration_secs": conversation.seconds,
        "message_count": len(conversation.transcript),
        "status": conversation.status,
        "call_successful": "failure" if conversation.failure else "success",
    }


def _conversation(request: Request) -> Conversation:
    name = request.params["id"]
    found = request.account.conversations.get(name)
    if not isinstance(found, Conversation):
        raise not_found("conversation", name)
    return found


_CONVERSATIONS: Final = "/v1/convai/conversations"

ROUTES: Final = (
    Route("GET", _CONVERSATIONS, list_conversations),
    Route("GET", _CONVERSATIONS + "/{id}", get_conversation),
    Route("DELETE", _CONVERSATIONS + "/{id}", delete_conversation),
)
