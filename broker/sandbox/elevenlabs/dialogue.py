"""The model's part, which is a script: what an agent does when it hears something.

* The first rule whose pattern finds the text decides; without one the agent repeats what it
  heard, so that a test knows what it says.
* One thing after the other: what is heard while a tool runs waits its turn.
"""

import re
from collections.abc import Mapping
from typing import Any

from broker.sandbox.elevenlabs.conversations import NORMAL, Conversation, Failed
from broker.sandbox.elevenlabs.knobs import Step
from broker.sandbox.elevenlabs.toolcalls import Outcome, call_tool


async def act(
    conversation: Conversation, tool: str, arguments: Mapping[str, Any]
) -> Outcome | None:
    """Let the agent call a tool; None where that was the end of the conversation."""
    async with conversation.turn:
        try:
            return await call_tool(conversation, tool, arguments)
        except Failed as failure:
            conversation.fail(failure)
            return None


async def converse(conversation: Conversation, text: str, *, spoken: bool = False) -> None:
    """Let the user say something, and the agent react."""
    async with conversation.turn:
        if conversation.ended_at is not None:
            return
        try:
            conversation.hear(text, spoken=spoken)
            for step in _steps(conversation, text):
                await _do(conversation, step)
        except Failed as failure:
            conversation.fail(failure)


def _steps(conversation: Conversation, text: str) -> list[Step]:
    for rule in conversation.account.scripts.get(conversation.agent.id, []):
        if re.search(rule.when, text):
            return rule.do
    return [Step(say="You said: " + text.replace("{", "("))]


async def _do(conversation: Conversation, step: Step) -> None:
    if conversation.ended_at is not None:
        return
    if step.tool is not None:
        await call_tool(conversation, step.tool, step.arguments)
    if step.say is not None:
        conversation.say(step.say)
    if step.end:
        conversation.finish(NORMAL, "The agent ended the call")
