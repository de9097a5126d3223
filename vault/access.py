"""Who may do what: one table, and the rule that no key makes a key wider than itself.

* What the table does not name, nobody may do.
* The operator runs the deployment and may help inside a workspace; no row that gives away a
  credential names the operator.
* Pure: no I/O, so the whole policy can be read and tested on one page.
"""

from datetime import datetime
from typing import Final, Literal, get_args

from msgspec import Struct

from vault.errors import Forbidden, Invalid
from vault.model import OPERATOR, ApiKey, Caller, NewKey, Scope

Action = Literal[
    "workspace.create",
    "workspace.list",
    "workspace.read",
    "workspace.delete",
    "rotation.run",
    "rotation.verify",
    "chain.verify",
    "chain.export",
    "chain.anchor",
    "backup.take",
    "backup.restore",
    "key.create",
    "key.list",
    "key.read",
    "key.delete",
    "user.list",
    "user.read",
    "user.write",
    "user.delete",
    "audit.read",
    "environment.list",
    "environment.write",
    "environment.delete",
    "settings.read",
    "settings.write",
    "variable.list",
    "variable.read",
    "variable.write",
    "variable.delete",
    "secret.list",
    "secret.read",
    "secret.write",
    "secret.delete",
    "auth_connection.list",
    "auth_connection.write",
    "auth_connection.delete",
    "configuration.show",
    "configuration.use",
    "provider.list",
    "provider.read",
    "integration.list",
    "integration.read",
    "integration.write",
    "integration.delete",
    "integration.check",
    "connection.list",
    "connection.read",
    "connection.write",
    "connection.delete",
    "connection.token",
    "connection.refresh",
    "connection.expect",
    "connect_session.list",
    "connect_session.read",
    "connect_session.write",
    "connect_session.complete",
    "connect_session.delete",
    "event_endpoint.list",
    "event_endpoint.read",
    "event_endpoint.write",
    "event_endpoint.delete",
    "event_endpoint.rotate",
    "event_endpoint.replay",
    "agent.list",
    "agent.read",
    "agent.write",
    "agent.delete",
    "agent.tools",
    "agent.push",
    "upstream.read",
    "upstream.write",
    "upstream.delete",
    "conversation.mint",
    "conversation.prepare",
    "conversation.read",
    "conversation.list",
    "conversation.end",
    "conversation.verify",
    "conversation.redeem",
    "readiness.read",
    "call.receive",
    "phone_number.read",
    "phone_number.write",
    "grant.refresh",
    "gateway.use",
    "signing_key.rotate",
]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)


class Rule(Struct, frozen=True):
    """A key needs ``scope`` (``None``: no key may) or one of ``others``; the operator may where
    ``operator`` says so, and what a conversation holds where ``grant`` does.
    """

    scope: Scope | None
    operator: bool
    others: tuple[Scope, ...] = ()
    grant: bool = False


RULES: Final[dict[Action, Rule]] = {
    "workspace.create": Rule(None, operator=True),
    "workspace.list": Rule(None, operator=True),
    "workspace.read": Rule(None, operator=True),
    "workspace.delete": Rule(None, operator=True),
    "rotation.run": Rule(None, operator=True),
    "rotation.verify": Rule(None, operator=True),
    "chain.verify": Rule(None, operator=True),
    "chain.export": Rule(None, operator=True),
    "chain.anchor": Rule(None, operator=True),
    "backup.take": Rule(None, operator=True),
    "backup.restore": Rule(None, operator=True),
    "key.create": Rule("manage", operator=True),
    "key.list": Rule("manage", operator=True),
    "key.read": Rule("manage", operator=True),
    "key.delete": Rule("manage", operator=True),
    "user.list": Rule("manage", operator=True),
    "user.read": Rule("manage", operator=True),
    "user.write": Rule("manage", operator=True),
    "user.delete": Rule("manage", operator=True),
    "audit.read": Rule("audit:read", operator=True),
    "environment.list": Rule("manage", operator=True),
    "environment.write": Rule("manage", operator=True),
    "environment.delete": Rule("manage", operator=True),
    "settings.read": Rule("manage", operator=True),
    "settings.write": Rule("manage", operator=True),
    "variable.list": Rule("manage", operator=True),
    "variable.read": Rule("manage", operator=True),
    "variable.write": Rule("manage", operator=True),
    "variable.delete": Rule("manage", operator=True),
    "secret.list": Rule("manage", operator=True),
    "secret.read": Rule("manage", operator=True),  # its name and uses; the value has no action
    "secret.write": Rule("manage", operator=True),
    "secret.delete": Rule("manage", operator=True),
    "auth_connection.list": Rule("manage", operator=True),
    "auth_connection.write": Rule("manage", operator=True),
    "auth_connection.delete": Rule("manage", operator=True),
    "configuration.show": Rule("tools:invoke", operator=False),
    # A conversation names what its agent's profile stores, and brings none of its own.
    "configuration.use": Rule("tools:invoke", operator=False, grant=True),
    # The catalogue is the deployment's, and public knowledge; who sets things up may read it.
    "provider.list": Rule("manage", operator=True, others=("connect",)),
    "provider.read": Rule("manage", operator=True, others=("connect",)),
    "integration.list": Rule("manage", operator=True, others=("connect",)),
    "integration.read": Rule("manage", operator=True, others=("connect",)),
    "integration.write": Rule("manage", operator=True),
    "integration.delete": Rule("manage", operator=True),
    "integration.check": Rule("manage", operator=True),
    "connection.list": Rule("manage", operator=True, others=("connect",)),
    "connection.read": Rule("manage", operator=True, others=("connect",)),
    "connection.write": Rule("connect", operator=False, others=("manage",)),
    "connection.delete": Rule("manage", operator=True, others=("connect",)),
    "connection.token": Rule("tokens:read", operator=False, grant=True),
    "connection.refresh": Rule("manage", operator=True, others=("connect",)),
    # Announcing a conversation gives nothing away, and whoever may begin one may announce it.
    "connection.expect": Rule("mint", operator=False),
    "connect_session.write": Rule("connect", operator=False, others=("manage",)),
    "connect_session.complete": Rule("connect", operator=False, others=("manage",)),
    "connect_session.list": Rule("connect", operator=True, others=("manage",)),
    "connect_session.read": Rule("connect", operator=True, others=("manage",)),
    "connect_session.delete": Rule("connect", operator=True, others=("manage",)),
    "event_endpoint.list": Rule("manage", operator=True),
    "event_endpoint.read": Rule("manage", operator=True),
    "event_endpoint.write": Rule("manage", operator=True),
    "event_endpoint.delete": Rule("manage", operator=True),
    "event_endpoint.rotate": Rule("manage", operator=True),
    "event_endpoint.replay": Rule("manage", operator=True),
    "agent.list": Rule("manage", operator=True),
    "agent.read": Rule("manage", operator=True),
    "agent.write": Rule("manage", operator=True),
    "agent.delete": Rule("manage", operator=True),
    "agent.tools": Rule("manage", operator=True, others=("mint",)),
    "agent.push": Rule("manage", operator=False),  # it sends a key of the workspace's away
    "upstream.read": Rule("manage", operator=True),
    "upstream.write": Rule("manage", operator=True),
    "upstream.delete": Rule("manage", operator=True),
    "conversation.mint": Rule("mint", operator=False),
    "conversation.prepare": Rule("mint", operator=False, grant=True),
    "conversation.read": Rule("manage", operator=True, others=("mint",)),
    "conversation.list": Rule("manage", operator=True, others=("mint",)),
    "conversation.end": Rule("manage", operator=True, others=("mint",), grant=True),
    "conversation.verify": Rule("mint", operator=False),
    "conversation.redeem": Rule("redeem", operator=False),
    "readiness.read": Rule("mint", operator=False),
    "call.receive": Rule("hooks", operator=False),
    # They live in the workspace's account, and are reached with its key.
    "phone_number.read": Rule("manage", operator=False),
    "phone_number.write": Rule("manage", operator=False),
    "grant.refresh": Rule(None, operator=False, grant=True),
    "gateway.use": Rule(None, operator=False, grant=True),
    "signing_key.rotate": Rule("manage", operator=True),
}


# What belongs to the deployment and not to a workspace; the operator asks from outside of them.
_OF_THE_DEPLOYMENT: Final = ("workspace.", "rotation.", "chain.", "backup.", "provider.")


def permit(caller: Caller, action: Action) -> None:
    """Raise ``Forbidden`` unless the table lets this caller do this."""
    rule = RULES[action]
    if caller.kind == "key" and rule.scope in caller.scopes:
        return  # as nearly everybody who asks
    if caller.kind == "grant":
        if not rule.grant:
            raise Forbidden("What a conversation holds may not do that.")
        return
    if caller.kind not in ("operator", "key"):
        raise Forbidden("Only a key may do that.")
    if caller.kind == "operator":
        if not rule.operator:
            raise Forbidden("The operator may not do that.")
        if (caller.workspace == OPERATOR) != action.startswith(_OF_THE_DEPLOYMENT):
            raise Forbidden("Inside a workspace the operator works with the 'keyturn' command.")
        return
    if rule.scope is None:
        raise Forbidden(f"Only {'a conversation' if rule.grant else 'the operator'} may do that.")
    if caller.scopes.isdisjoint((rule.scope, *rule.others)):
        raise Forbidden(f"This key lacks the scope {' or '.join((rule.scope, *rule.others))}.")


def permit_scope(caller: Caller, scope: Scope) -> None:
    """Refuse whoever is no key of this scope."""
    if caller.kind != "key" or scope not in caller.scopes:
        raise Forbidden(f"This key lacks the scope {scope}.")


def narrowed(caller: Caller, wanted: NewKey, now: datetime) -> NewKey:
    """Return the key that this caller may make; refuse one that is wider than its maker."""
    if wanted.expires_at is not None and wanted.expires_at <= now:
        raise Invalid("A key cannot expire in the past.", pointer="/expires_at")
    if caller.kind == "operator":
        return wanted
    if not set(wanted.scopes) <= caller.scopes:
        raise Forbidden("A key cannot give scopes that it does not have.")
    environments = wanted.environments or caller.environments
    if not within_environments(caller, environments):
        raise Forbidden("A key cannot give environments that it does not have.")
    expires_at = wanted.expires_at or caller.expires_at
    if caller.expires_at and (expires_at is None or expires_at > caller.expires_at):
        raise Forbidden("A key cannot outlive the key that makes it.")
    return NewKey(
        name=wanted.name, scopes=wanted.scopes, environments=environments, expires_at=expires_at
    )


def within_environments(caller: Caller, environments: tuple[str, ...] | list[str]) -> bool:
    """Does this caller reach all of these environments? An empty list means every one."""
    if not caller.environments:
        return True
    return bool(environments) and set(environments) <= set(caller.environments)


def may_revoke(caller: Caller, key: ApiKey) -> None:
    """A key that is tied to environments leaves the keys of other environments alone."""
    if not within_environments(caller, key.environments):
        raise Forbidden("This key reaches environments that the caller's key does not.")


def permit_environment(caller: Caller, environment: str) -> None:
    """Refuse a key that is tied to other environments."""
    if not within_environments(caller, [environment]):
        raise Forbidden("This key is tied to other environments.")


def permit_everywhere(caller: Caller) -> None:
    """Refuse a key that is tied to environments: this would reach all of them."""
    if caller.environments:
        raise Forbidden("This reaches every environment, and this key is tied to some.")
