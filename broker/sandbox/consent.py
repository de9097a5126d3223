"""Asking a person, and sending the browser back with what they said.

* A question is answered once, within ten minutes, by whoever has its ticket.
* With the ``Consent`` knob's ``auto`` nobody is asked, and no browser is needed.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from broker.sandbox import pages
from broker.sandbox.dialect import Callback
from broker.sandbox.knobs import Consent, Person
from broker.sandbox.pages import Answer

TICKET_LIFETIME: Final = 600.0  # seconds
MAX_QUESTIONS: Final = 10_000


class Question(Struct, frozen=True, kw_only=True):
    """``decide`` takes the account that allows, or None, and says where to go."""

    client: str
    decide: Callable[[str | None], Answer]
    scopes: tuple[str, ...] = ()
    hint: str = ""


class Questions:
    """What is being asked just now."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, Question]] = {}

    def ask(self, question: Question, knob: Consent, people: Mapping[str, Person]) -> Answer:
        """Ask, or know already."""
        first = question.hint if question.hint in people else next(iter(people), "")
        if knob.auto == "deny" or not people:
            return question.decide(None)
        if knob.auto == "allow":
            return question.decide(first)
        if knob.auto is not None:
            return question.decide(knob.auto if knob.auto in people else None)
        while len(self._open) >= MAX_QUESTIONS:
            del self._open[next(iter(self._open))]
        ticket = secrets.token_urlsafe(24)
        self._open[ticket] = (time.monotonic() + TICKET_LIFETIME, question)
        return pages.consent(ticket, question.client, question.scopes, people, first)

    def answer(
        self, ticket: str, account: str, decision: str, people: Mapping[str, Person]
    ) -> Answer:
        """What a person said."""
        until, question = self._open.pop(ticket, (0.0, None))
        if question is None or time.monotonic() > until:
            return pages.said("Too late", "Please begin again where you came from.", status=400)
        allowed = decision == "allow" and account in people
        return question.decide(account if allowed else None)


def granted(knob: Consent, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Of what was asked for, what is given."""
    return tuple(one for one in scopes if knob.scopes is None or one in knob.scopes)


def sent_back(
    callback: Callback, redirect_uri: str, values: Mapping[str, str], secret: str
) -> Answer:
    """Send the browser back to the client."""
    if callback.signature == "shopify_hmac":
        values = dict(values) | {"hmac": _shopify(values, secret)}
    if callback.method == "POST":
        return pages.posted_to(redirect_uri, values)
    return pages.sent_to(redirect_uri, values, callback.fragment)


def _shopify(values: Mapping[str, str], secret: str) -> str:
    """The sorted query without ``hmac``, signed with the client's secret, in hex."""
    lines = "&".join(f"{name}={values[name]}" for name in sorted(values))
    return hmac.new(secret.encode(), lines.encode(), hashlib.sha256).hexdigest()
