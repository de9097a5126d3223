"""How connecting can end: what happened and what to do next, in words for anybody.

``{workspace}``, ``{provider}`` and ``{account}`` are filled in by ``wording.named``. A status says
whether the request was refused, not how the story ended: a story that ends at the provider is an
ordinary page, and 502 is never used, since proxies put a page of their own in its place.
"""

from typing import Final, Literal

from msgspec import Struct

Kind = Literal[
    "connected",
    "narrower",
    "already_done",
    "denied",
    "not_you",
    "wrong_account",
    "nothing_to_choose",
    "provider_error",
    "expired",
    "wrong_browser",
    "paused",
    "unavailable",
]


class Ending(Struct, frozen=True, kw_only=True):
    """``mark``: done, nothing to worry about, or something to look at."""

    mark: Literal["done", "calm", "look"]
    title: str
    happened: str
    next: str = ""
    status: int = 200


ENDINGS: Final[dict[Kind, Ending]] = {
    "connected": Ending(
        mark="done",
        title="Your account is connected",
        happened="{workspace} can now use your {provider} account.",
    ),
    "narrower": Ending(
        mark="done",
        title="Connected, with less access",
        happened="{workspace} can now use your {provider} account, but not everything that it "
        "asked for was allowed.",
        next="That is fine, if you meant it. If something does not work later, connect again and "
        "allow these, too.",
    ),
    "already_done": Ending(
        mark="done",
        title="This is done already",
        happened="This link was used to connect {provider}, and there is nothing left to do.",
    ),
    "denied": Ending(
        mark="calm",
        title="Nothing was connected",
        happened="The request was declined, so {workspace} did not get access to {provider}.",
        next="If you did not mean to decline, you can start again at any time.",
    ),
    "not_you": Ending(
        mark="calm",
        title="Nothing was connected",
        happened="Thank you for looking. You told us that this was not you, so {workspace} does "
        "not get access to this {provider} account.",
        next="If somebody sent you a link that you did not expect, please do not open it again.",
    ),
    "wrong_account": Ending(
        mark="look",
        title="That is another account",
        happened="This is not the {provider} account that {workspace} knows you by, so nothing "
        "was changed.",
        next="Sign out of {provider} or choose the other account there, and try again. If you "
        "want to change accounts, ask {workspace}.",
        status=409,
    ),
    "nothing_to_choose": Ending(
        mark="look",
        title="There is nothing to connect here",
        happened="Your {provider} account works, but we found nothing in it that could be "
        "connected.",
        next="Perhaps you have another account at {provider}, or somebody has to invite you first.",
    ),
    "provider_error": Ending(
        mark="look",
        title="That did not work",
        happened="{provider} could not finish this, and nothing was connected. It is nothing that "
        "you did.",
        next="Please try again in a few minutes.",
    ),
    "expired": Ending(
        mark="calm",
        title="This link no longer works",
        happened="Links like this one last a few minutes and work once, to keep your accounts "
        "safe. This one is too old, or it has been used.",
        next="Go back to where you found it, and ask for a new one.",
        status=410,
    ),
    "wrong_browser": Ending(
        mark="look",
        title="Please finish where you began",
        happened="You began in another browser or on another device, or this browser refused our "
        "cookie. To keep your accounts safe, we only go on where you began.",
        next="Go back to that browser, or start again in this one.",
        status=403,
    ),
    "paused": Ending(
        mark="look",
        title="This cannot be connected now",
        happened="The way from {workspace} to {provider} is switched off or not set up correctly. "
        "It is nothing that you did, and your account was not touched.",
        next="Please tell the people who run {workspace}.",
        status=409,
    ),
    "unavailable": Ending(
        mark="look",
        title="Please try again in a moment",
        happened="Something on our side does not answer at the moment. It is nothing that you did.",
        next="Please wait a minute, then load this page again.",
        status=503,
    ),
}
