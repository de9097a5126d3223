"""What can be set: clients, people, how they consent, and what their tokens are like.

* Each is put whole; what is left out has its default again.
* An unknown field is refused, so that a misspelt knob does not look like a working one.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct

from vault.auth_kinds import Algorithm

DEFAULT_LIFETIME: Final = 3_600.0
IdAlgorithm = Literal["RS256", "ES256", "ES256K", "EdDSA", "HS256"]
Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)]

# What becomes of the refresh token that was used:
#   none        it stays, and the reply holds no other;
#   sometimes   every ``every``-th time it is replaced as in ``strict``, else as in ``none``;
#   strict      it is dead at once;
#   grace       it is good for ``grace`` seconds more; used again, it gives a new pair, and the
#               refresh token that it gave before is dead;
#   same        as ``grace``, but used again it gives the same pair once more;
#   until_used  it is good until one of the new pair is first used, and ``grace`` seconds on;
#   stays       the reply holds another, and both are good.
Rotation = Literal["none", "sometimes", "strict", "grace", "same", "until_used", "stays"]


class ClientKey(Struct, frozen=True, forbid_unknown_fields=True):
    """What checks a client's signatures: a shared secret, or a public key as PEM."""

    algorithm: Algorithm
    key: str

    def __repr__(self) -> str:
        return f"ClientKey({self.algorithm})"


class Client(Struct, frozen=True, forbid_unknown_fields=True):
    """A registered client; a public one has neither secret nor keys, and needs PKCE.

    ``scopes`` None: it may have any. ``redirect_uris`` are compared letter by letter.
    """

    secret: str | None = None
    keys: list[ClientKey] = []
    scopes: list[str] | None = None
    redirect_uris: list[str] = []
    name: str = ""

    @property
    def public(self) -> bool:
        return self.secret is None and not self.keys

    def __repr__(self) -> str:
        return "Client(***)"


class Person(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody with an account here; ``number`` for dialects whose account ids are numbers."""

    name: str
    email: str
    number: int
    claims: dict[str, Any] = {}


PEOPLE: Final = {
    "ada": Person(name="Ada Lovelace", email="ada@example.com", number=1815),
    "grace": Person(name="Grace Hopper", email="grace@example.com", number=1906),
}


class Consent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who answers the consent page.

    ``auto`` None: a person, with a browser. ``allow``: the first account (or the ``login_hint``)
    allows at once; ``deny``: at once, too; else an account, which allows. ``scopes``: of what is
    asked for, only these are granted.
    """

    auto: str | None = None
    scopes: list[str] | None = None
    device_interval: Annotated[float, Meta(ge=0, le=60)] = 5
    device_lifetime: Seconds = 600


class IdTokens(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ID tokens are like. ``signed_by``: ``other`` is a key that no JWKS shows, ``none`` is
    the algorithm of that name; both must be refused by whoever reads the token.
    """

    algorithm: IdAlgorithm | None = None  # None: RS256, or what the dialect says
    claims: dict[str, Any] = {}
    without: list[str] = []
    signed_by: Literal["published", "other", "none"] = "published"


class Issuing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens are like from now on."""

    lifetime: Seconds = DEFAULT_LIFETIME  # that they really live
    expires_in: Any = UNSET  # what is said of it; absent: the truth, null: nothing
    fields: dict[str, Any] = {}  # whatever else a reply shall hold
    without: list[str] = []  # what it shall not hold
    refresh: bool = True  # is a refresh token given?
    refresh_scopes: list[str] = []  # only where one of these was granted
    refresh_lifetime: Seconds | None = None
    refresh_expires_in: Any = UNSET  # as expires_in
    rotation: Rotation = "strict"
    grace: Seconds = 0
    every: Annotated[int, Meta(ge=1)] = 2
    replay_revokes: bool = False  # a dead refresh token, used again, ends the whole family
    old_access: Literal["stays", "dies"] = "stays"  # the access token before, at a refresh
    min_age: Seconds = 0  # before which a token cannot be refreshed
    code_lifetime: Seconds = 60
    id_token: IdTokens = IdTokens()
    wrong_user: str | None = None  # userinfo and the like speak of this account instead
