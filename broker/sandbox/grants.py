"""Every token that was given out, what it belongs to, and what using it does.

* A ``Family`` is one consent: its code, and every token that came of it.
* A code works once; used again, it ends its family (RFC 6749 section 4.1.2).
* What becomes of a used refresh token is the ``Issuing`` knob's ``rotation``.
* Nothing here awaits: a use, its verdict and its tokens are one step.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final, Literal

from msgspec import Struct

from broker.sandbox.history import History
from broker.sandbox.knobs import Issuing

MAX_TOKENS: Final = 500_000

TokenKind = Literal["code", "access", "refresh"]


class Unusable(Exception):
    """A token that does not work (any more); ``reason`` is for the history."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Family(Struct, kw_only=True, eq=False):
    """One consent. ``asked``: what the authorization request said and later requests need."""

    id: str
    realm: str
    client_id: str
    account: str = ""
    scopes: tuple[str, ...] = ()
    asked: Mapping[str, str] = {}
    generation: int = 0
    refreshes: int = 0
    ended: str = ""
    tokens: list["Token"] = []


class Token(Struct, kw_only=True, eq=False):
    """One token. ``until`` None: it has no end. ``name``: of an extra token, else empty."""

    kind: TokenKind
    family: Family
    mark: str
    generation: int
    issued_at: float
    until: float | None
    name: str = ""
    replaced: bool = False
    releases: "Token | None" = None  # dies when this one is first used
    gave: "Pair | None" = None

    @property
    def works(self) -> bool:
        return not self.family.ended and (self.until is None or time.monotonic() < self.until)


class Pair(Struct, frozen=True):
    """What a refresh or an exchange gives."""

    access: str
    refresh: str | None


class Row(Struct, frozen=True, kw_only=True):
    """A family as the panel shows it."""

    family: str
    realm: str
    client: str
    account: str
    generation: int
    refreshes: int
    ended: str
    usable: list[str]  # fingerprints of refresh tokens


class Ledger:
    """All families of one sandbox."""

    def __init__(self, history: History, fingerprint: Callable[[str], str]) -> None:
        self._history = history
        self._fingerprint = fingerprint
        self._tokens: dict[str, Token] = {}
        self._families: dict[str, Family] = {}
        self._numbers = count(1)

    def open(
        self,
        *,
        realm: str,
        client_id: str,
        account: str = "",
        scopes: tuple[str, ...] = (),
        asked: Mapping[str, str] | None = None,
    ) -> Family:
        """Begin a family."""
        family = Family(
            id=f"f{next(self._numbers)}",
            realm=realm,
            client_id=client_id,
            account=account,
            scopes=scopes,
            asked=asked or {},
        )
        self._families[family.id] = family
        return family

    def beside(self, family: Family, name: str) -> Family:
        """The family of an extra token of the same consent."""
        found = self._families.get(f"{family.id}.{name}")
        if found is None:
            found = Family(
                id=f"{family.id}.{name}",
                realm=family.realm,
                client_id=family.client_id,
                account=family.account,
                scopes=family.scopes,
                asked=family.asked,
            )
            self._families[found.id] = found
        return found

    def issue(
        self,
        family: Family,
        kind: TokenKind,
        lifetime: float | None,
        *,
        request: int,
        name: str = "",
    ) -> str:
        """Make a token."""
        text = "sandbox_" + secrets.token_urlsafe(32)
        now = time.monotonic()
        if kind == "refresh":
            family.generation += 1
        token = Token(
            kind=kind,
            family=family,
            mark=self._fingerprint(text),
            generation=family.generation,
            issued_at=now,
            until=None if lifetime is None else now + lifetime,
            name=name,
        )
        while len(self._tokens) >= MAX_TOKENS:
            self._forget(next(iter(self._tokens)))
        self._tokens[token.mark] = token
        family.tokens = [one for one in family.tokens if one.works]
        family.tokens.append(token)
        self._note("issued", token, request)
        return text

    def use(self, text: str, kind: TokenKind, realm: str, issuing: Issuing, request: int) -> Token:
        """Take a token that was presented: the one that works, or ``Unusable``."""
        token = self.find(text, realm)
        if token is None or token.kind != kind:
            self._history.add(
                "unknown", request=request, realm=realm, kind=kind, token=self._fingerprint(text)
            )
            raise Unusable("unknown")
        self._note("used", token, request)
        family = token.family
        if family.ended:
            raise Unusable(f"the family ended: {family.ended}")
        if not token.works:
            if token.replaced and (kind == "code" or issuing.replay_revokes):
                self.end(family, "replay", request)
            raise Unusable("used before" if token.replaced else "expired")
        if kind == "code":
            self._kill(token, 0, request)
            token.replaced = True
        self._release(token, issuing.grace, request)
        return token

    def find(self, text: str, realm: str) -> Token | None:
        """A token of this realm, alive or dead."""
        token = self._tokens.get(self._fingerprint(text))
        return token if token and token.family.realm == realm else None

    def alive(self, text: str, realm: str, *, grace: float = 0, request: int = 0) -> Token | None:
        """A working access token that is used for what it is for."""
        token = self.find(text, realm)
        if token is None or token.kind != "access" or not token.works:
            return None
        self._release(token, grace, request)
        return token

    def give(
        self, family: Family, issuing: Issuing, *, refresh: bool, request: int, name: str = ""
    ) -> Pair:
        """The first pair of a family."""
        return Pair(
            self.issue(family, "access", issuing.lifetime, request=request, name=name),
            self.issue(family, "refresh", issuing.refresh_lifetime, request=request, name=name)
            if refresh
            else None,
        )

    def refresh(self, token: Token, issuing: Issuing, request: int) -> Pair:
        """What a used token buys; ``use`` came before."""
        family = token.family
        if issuing.rotation == "same" and token.gave:
            return token.gave
        if time.monotonic() < token.issued_at + issuing.min_age:
            raise Unusable("too young")
        family.refreshes += 1
        if issuing.old_access == "dies":
            for one in [one for one in family.tokens if one.kind == "access" and one.works]:
                self._kill(one, 0, request)
        rotates = token.kind == "refresh" and _rotates(issuing, family.refreshes)
        if rotates:
            self._replace(token, issuing, request)
        pair = self.give(family, issuing, refresh=rotates, request=request, name=token.name)
        if rotates:
            token.gave = pair
            if issuing.rotation == "until_used":
                for text in (pair.access, pair.refresh or ""):
                    self._tokens[self._fingerprint(text)].releases = token
        return pair

    def end(self, family: Family, why: str, request: int = 0) -> None:
        """Nothing of this family works any more."""
        if not family.ended:
            family.ended = why
            self._history.add(
                "ended", request=request, realm=family.realm, family=family.id, reasons=(why,)
            )

    def end_consent(self, family: Family, why: str, request: int = 0) -> None:
        """End a family with those of its extra tokens."""
        root = family.id.partition(".")[0]
        for one in list(self._families.values()):
            if one.id.partition(".")[0] == root:
                self.end(one, why, request)

    def families(self) -> list[Family]:
        return list(self._families.values())

    def kill(self, token: Token, request: int) -> None:
        """This one token does not work any more."""
        if token.works:
            self._kill(token, 0, request)

    def expire_access(self) -> None:
        """Every access token's time is over; what refreshes them lives on."""
        for token in [one for family in self._families.values() for one in family.tokens]:
            if token.kind == "access":
                self.kill(token, 0)

    def rows(self) -> list[Row]:
        return [
            Row(
                family=one.id,
                realm=one.realm,
                client=one.client_id,
                account=one.account,
                generation=one.generation,
                refreshes=one.refreshes,
                ended=one.ended,
                usable=[t.mark for t in one.tokens if t.kind == "refresh" and t.works],
            )
            for one in self._families.values()
        ]

    def _replace(self, token: Token, issuing: Issuing, request: int) -> None:
        """Let the token before, and whatever it gave in an earlier use, end as they should."""
        if issuing.rotation == "stays":
            return
        for one in token.family.tokens:
            if one is not token and one.kind == "refresh" and one.works:
                self._kill(one, 0, request)
        if issuing.rotation == "until_used":
            token.replaced = True
        elif not token.replaced:
            grace = issuing.grace if issuing.rotation in ("grace", "same") else 0
            self._kill(token, grace, request)
            token.replaced = True

    def _release(self, token: Token, grace: float, request: int) -> None:
        if (older := token.releases) is not None:
            token.releases = None
            if older.works:
                self._kill(older, grace, request)

    def _kill(self, token: Token, delay: float, request: int) -> None:
        until = time.monotonic() + delay
        token.until = until if token.until is None else min(token.until, until)
        self._note("died", token, request)

    def _note(self, what: Literal["used", "issued", "died"], token: Token, request: int) -> None:
        self._history.add(
            what,
            request=request,
            realm=token.family.realm,
            kind=token.kind,
            family=token.family.id,
            generation=token.generation,
            token=token.mark,
            until=None if what == "used" else token.until,
            client=token.family.client_id,
            account=token.family.account,
        )

    def _forget(self, mark: str) -> None:
        """Make room. A family without tokens that can be asked for goes, too."""
        token = self._tokens.pop(mark)
        if token.family.ended or not any(one.mark in self._tokens for one in token.family.tokens):
            self._families.pop(token.family.id, None)


def _rotates(issuing: Issuing, refreshes: int) -> bool:
    if issuing.rotation == "sometimes":
        return refreshes % issuing.every == 0
    return issuing.rotation != "none"
