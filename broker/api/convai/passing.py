"""What the workspace's account at ElevenLabs answered, on its way to who asked.

* It is passed on unchanged, whatever its status is. Only a refusal of the account's own key is not,
  because the caller's key is another one; and no redirect is, which would take that key along.
* Of its headers nothing goes on but what kind of text it is, and when to ask again: without that a
  client that is asked to wait comes back too early.
"""

from typing import Any, Final

from litestar import Response

from broker.upstreams.client import KEY_REFUSED
from vault.egress import Reply
from vault.errors import UpstreamFailed

_MOVED: Final = range(300, 400)
_KINDS: Final = frozenset({"application/json", "application/xml", "text/xml", "text/html"})


_MAX_WAIT: Final = 64  # characters; a date of HTTP has 29


def passed_on(reply: Reply) -> Response[Any]:
    """The same answer."""
    if reply.status in KEY_REFUSED or reply.status in _MOVED:
        raise UpstreamFailed(f"The upstream answered {reply.status} to this workspace's own key.")
    kind = (reply.get("Content-Type") or "").partition(";")[0].strip().lower()
    return Response(
        reply.body,
        status_code=reply.status,
        media_type=kind if kind in _KINDS else "application/json",
        headers={"Cache-Control": "no-store", **_wait(reply)},
    )


def _wait(reply: Reply) -> dict[str, str]:
    """``Retry-After``, if it looks like one."""
    asked = reply.get("Retry-After") or ""
    fits = asked.isascii() and asked.isprintable() and len(asked) <= _MAX_WAIT
    return {"Retry-After": asked} if asked and fits else {}
