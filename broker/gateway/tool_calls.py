"""A tool's configuration, seen or called as one conversation would: its environment, its variables.

* Whoever asks needs the scope for any configuration, and the conversation has to live. Which
  environment and whose values is decided by the conversation alone.
* A user's credential goes to its connection's own API: the same host and port, the same paths that
  the gateway never calls left out. What the conversation holds for itself goes nowhere.
* A secret of the workspace is named by ``env_var_label``, which knows its ``allowed_hosts``; as a
  variable of the profile it is refused here.
* Seen, no token is fetched: what is secret is masked, whatever it is.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from broker import invoke
from broker.delivery import Delivering, Issued, revealed
from broker.gateway import paths
from broker.grants import Grants, Opened
from broker.invoke import Answer, Question
from broker.profile import is_secret
from broker.resolve import Outgoing
from broker.variables import (
    Authorization,
    Extra,
    Grant,
    Label,
    Plan,
    Source,
    Token,
    refuse_collisions,
)
from vault import access
from vault.errors import Forbidden, Invalid, Unresolved
from vault.model import Caller
from vault.oauth.api import Api
from vault.vault import Vault
from vault.vault.calls import AuthFacts
from vault.vault.refreshing import Fresh

_OF_CONNECTIONS: Final = (Token, Authorization, Extra)


class ToolCalls:
    """Configurations, with what a conversation has."""

    def __init__(self, vault: Vault, grants: Grants, delivering: Delivering) -> None:
        self._vault = vault
        self._grants = grants
        self._delivering = delivering

    async def show(
        self, caller: Caller, conversation_id: str, question: Question
    ) -> tuple[Outgoing, AuthFacts | None]:
        """Resolve for the eye, as this conversation would."""
        access.permit(caller, "configuration.show")
        opened = await self._grants.opened(caller, conversation_id)
        asked = await self._asked(opened, question, {})
        return await invoke.show(self._vault, caller, asked)

    async def invoke(
        self,
        caller: Caller,
        conversation_id: str,
        question: Question,
        *,
        arguments: Mapping[str, Any],
        body: object = None,
    ) -> Answer:
        """Resolve as this conversation would, call, and answer what came back."""
        access.permit(caller, "configuration.use")
        opened = await self._grants.opened(caller, conversation_id)
        fresh = await self._grants.fresh(opened)
        apis = {name: await self._vault.api_of(opened.itself, one) for name, one in fresh.items()}
        asked = await self._asked(opened, question, fresh)
        return await invoke.invoke(
            self._vault,
            caller,
            asked,
            arguments=arguments,
            body=body,
            permit=lambda outgoing: permit(self._vault, outgoing, opened.kept.plan, apis),
        )

    async def _asked(
        self, opened: Opened, question: Question, fresh: Mapping[str, Fresh]
    ) -> Question:
        """The question, with the conversation's environment and variables in it."""
        kept = opened.kept
        refuse_collisions(kept.plan, question.variables)
        values = await self._delivering.values(
            opened.itself,
            kept.plan,
            opened.survey,
            fresh,
            environment=kept.environment,
            issued=Issued(),
            given={**kept.given, **question.variables},
        )
        return replace(question, environment=kept.environment, variables=revealed(values))


def permit(vault: Vault, outgoing: Outgoing, planned: Plan, apis: Mapping[str, Api | None]) -> None:
    """Refuse a request that would take a variable where it does not belong.

    ``apis``: where each connection that gives a token now has its API.
    """
    for name in sorted(_secrets_in(outgoing)):
        one = planned.variables.get(name)
        if one is not None:
            _permit_one(vault, name, one.source, outgoing, apis)


def _permit_one(
    vault: Vault,
    name: str,
    source: Source,
    outgoing: Outgoing,
    apis: Mapping[str, Api | None],
) -> None:
    if isinstance(source, Grant):
        raise Invalid(f"'{name}' is the conversation's own, and is not sent from here.")
    if isinstance(source, Label):
        raise Invalid(
            f"'{name}' is a secret of the workspace: name it by env_var_label, so that it goes"
            " only to its own hosts."
        )
    if not isinstance(source, _OF_CONNECTIONS):
        return
    if source.integration not in apis:
        raise Unresolved(f"'{source.integration}' has no token that could be used now.")
    api = apis[source.integration]
    if api is None:
        raise Forbidden(f"Nobody knows where the API of '{source.integration}' is.")
    own = vault.vet_tool_url(api.base_url.reveal())
    there = outgoing.target
    if (there.place, there.plain) != (own.place, own.plain):
        raise Forbidden(f"A credential of '{source.integration}' goes only to its own host.")
    path = paths.read(there.url.raw_path.encode(), b"")
    if paths.is_forbidden(path, "", api.never):
        raise Forbidden("This path of the provider is never called.")


def _secrets_in(outgoing: Outgoing) -> set[str]:
    """The secret variables that the request is made of."""
    meanings = [one for header in outgoing.headers for one in header.secrets]
    if outgoing.url_secret is not None:
        meanings.append(outgoing.url_secret)
    return {one.variable for one in meanings if one.variable and is_secret(one.variable)}
