"""Which of an app's client secrets a provider takes.

* While a secret is being changed an app has several, and some of the provider's servers know the
  new one, some the old. The next one is tried only where the client is what was refused: such a
  request has used nothing up.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, TypeVar

from vault.oauth.app import App
from vault.oauth.replies import UNAUTHORIZED, Failure, NoToken
from vault.oauth.requests import Attempt
from vault.secret import Secret

# What a provider calls a client whose secret it does not take, or that it does not know.
REFUSED_CLIENT: Final = frozenset(
    {
        "bad_client_secret",
        "incorrect_client_credentials",
        "invalid_client",
        "invalid_client_secret",
    }
)

T = TypeVar("T")


def with_secrets(app: App, ask: Callable[[Secret | None], Awaitable[T]]) -> Awaitable[T]:
    """Try with each client secret in turn, as long as the client is what is refused."""
    if len(app.client_secrets) > 1:
        return _with_each(app, ask)
    return ask(app.client_secrets[0] if app.client_secrets else None)


async def _with_each(app: App, ask: Callable[[Secret | None], Awaitable[T]]) -> T:
    for secret in app.client_secrets[:-1]:
        try:
            return await ask(secret)
        except NoToken as error:
            if not _refuses_client(error.failure):
                raise
    return await ask(app.client_secrets[-1])


def attempt(now: datetime, secret: Secret | None) -> Attempt:
    """An attempt with this secret."""
    return Attempt(now=now, secret=secret)


def first_attempt(app: App, now: datetime) -> Attempt:
    """An attempt with the secret that comes first."""
    return Attempt(now=now, secret=app.client_secrets[0] if app.client_secrets else None)


def _refuses_client(failure: Failure) -> bool:
    unnamed = failure.error is None and failure.status == UNAUTHORIZED
    return failure.error in REFUSED_CLIENT or (failure.outcome == "client" and unnamed)
