"""Everything that can go wrong, as one tree; a leaf is a fact, its ``code`` is stable.

::

    VaultError
    ├── Malformed              the request cannot be read                       malformed
    ├── Invalid                it can be read, and breaks a rule                invalid
    ├── Unauthenticated        no key, or none that lives                       unauthenticated
    ├── Forbidden              the key is known and may not                     forbidden
    ├── NotFound               missing, or another workspace's                  not_found
    ├── Conflict               the present state does not allow it              conflict
    ├── ConnectionMissing      a conversation needs what is not connected       connection_missing
    ├── UpstreamMissing        the workspace has not said where its runtime is  upstream_missing
    ├── DeliveryNotPossible    this runtime takes no secrets so          delivery_not_possible
    ├── DeliveryNeedsGateway   handles are for tools of the gateway     delivery_needs_gateway
    ├── RateLimited            too much at once                                 rate_limited
    ├── TooLarge               over a limit                                     too_large
    ├── IdempotencyInProgress  the first request still runs        idempotency_in_progress
    ├── IdempotencyMismatch    the same key came with another body idempotency_mismatch
    ├── Unresolved             a configuration refers to what has no value      unresolved
    ├── NotReady               a part that we need is away; try again           not_ready
    ├── UpstreamFailed         somebody else's server answered wrongly          upstream_failed
    │   └── AnswerTooLarge     what it answers is more than is read             upstream_failed
    ├── ProviderUnavailable    no token now; asking again later may help        provider_unavailable
    ├── NeedsReauth            the person has to consent again                  needs_reauth
    ├── CredentialRefused      a provider or an upstream will not have it       conflict
    ├── EgressDenied           an outbound call that must not be made           invalid
    ├── Unreachable            nobody answered (``sent`` says what we know)     upstream_failed
    ├── IntegrityError         a sealed value is not what was sealed            internal
    └── Misconfigured          the operator has to act; stops the start         internal

* The message is written for the person who reads it, and never holds a value: no token, no body
  of somebody else's answer, no query string. It defaults to the first line of the docstring.
* The HTTP status of a code stands in one table, ``broker/api/problems.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from vault.secret import Secret

Action = Literal["reconnect", "retry", "fix_configuration", "none"]


class VaultError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"
    action: Action = "none"

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.retry_after = retry_after
        super().__init__(self.message)


class Malformed(VaultError):
    """The request cannot be read."""

    code = "malformed"


class Invalid(VaultError):
    """The request breaks a rule."""

    code = "invalid"

    def __init__(self, message: str | None = None, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class Unauthenticated(VaultError):
    """No valid key: send one as 'Authorization: Bearer' or 'xi-api-key'."""

    code = "unauthenticated"


class Forbidden(VaultError):
    """This key may not do that."""

    code = "forbidden"


class NotFound(VaultError):
    """There is no such thing here."""

    code = "not_found"


class Conflict(VaultError):
    """The present state does not allow it."""

    code = "conflict"


@dataclass(frozen=True, slots=True)
class Missing:
    """A connection that is needed and cannot be used; the link invites the person to make it."""

    integration: str
    reason: str
    connect_url: Secret | None = None
    required: bool = True


# What time mends; whoever set an integration up mends one that is paused, and the person the rest.
_TIME_MENDS: Final = frozenset({"refreshing", "provider_unavailable"})
_SOON: Final = 2  # seconds, where nobody says when to ask again


class ConnectionMissing(VaultError):
    """The user lacks a connection that this agent needs."""

    code = "connection_missing"
    action: Action = "reconnect"

    def __init__(self, message: str | None = None, *, missing: Sequence[Missing] = ()) -> None:
        reasons = {one.reason for one in missing if one.required}
        waits = bool(reasons) and reasons <= _TIME_MENDS
        super().__init__(message, retry_after=_SOON if waits else None)
        self.missing = tuple(missing)
        if waits:
            self.action = "retry"
        elif reasons and reasons <= _TIME_MENDS | {"integration_paused"}:
            self.action = "fix_configuration"


class UpstreamMissing(VaultError):
    """This workspace has not said where its runtime is."""

    code = "upstream_missing"
    action = "fix_configuration"


class DeliveryNotPossible(VaultError):
    """This runtime and channel cannot be given secrets in that way."""

    code = "delivery_not_possible"


class DeliveryNeedsGateway(VaultError):
    """A handle buys nothing but calls of the gateway: the profile has to say "tools": "gateway"."""

    code = "delivery_needs_gateway"
    action = "fix_configuration"


class RateLimited(VaultError):
    """That was too much at once; try again after a while."""

    code = "rate_limited"
    action = "retry"

    def __init__(self, message: str | None = None, *, retry_after: int | None = 1) -> None:
        super().__init__(message, retry_after=retry_after)


class TooLarge(VaultError):
    """The request is over the size limit."""

    code = "too_large"


class IdempotencyInProgress(VaultError):
    """The first request with this Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    action = "retry"


class IdempotencyMismatch(VaultError):
    """This Idempotency-Key was used with another body."""

    code = "idempotency_mismatch"


class Unresolved(VaultError):
    """A configuration refers to something that has no value."""

    code = "unresolved"
    action = "fix_configuration"


class NotReady(VaultError):
    """A part of the service is away; try again shortly."""

    code = "not_ready"
    action = "retry"

    def __init__(self, message: str | None = None, *, retry_after: int | None = 1) -> None:
        super().__init__(message, retry_after=retry_after)


class UpstreamFailed(VaultError):
    """The other server's answer cannot be used."""

    code = "upstream_failed"
    action: Action = "retry"


class AnswerTooLarge(UpstreamFailed):
    """The other server's answer is larger than what is read of one."""


class ProviderUnavailable(VaultError):
    """The provider gives no token right now; try again."""

    code = "provider_unavailable"
    action: Action = "retry"

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: int | None = _SOON,
        action: Action = "retry",
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.action = action


class NeedsReauth(VaultError):
    """The provider ended this grant: the person has to connect again."""

    code = "needs_reauth"
    action = "reconnect"


class CredentialRefused(VaultError):
    """The provider refuses this credential."""

    code = "conflict"
    action = "fix_configuration"


class EgressDenied(VaultError):
    """This address may not be called."""

    code = "invalid"
    action = "fix_configuration"


class Unreachable(VaultError):
    """The other server did not answer.

    ``sent`` tells a refresher what it may assume: ``False`` means that not one byte of the
    request left, so trying again is harmless; ``True`` means that the other side may have acted.
    """

    code = "upstream_failed"
    action = "retry"

    def __init__(self, message: str | None = None, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class IntegrityError(VaultError):
    """A sealed value is not what was sealed here."""


class Misconfigured(VaultError):
    """The configuration cannot work."""

    action = "fix_configuration"
