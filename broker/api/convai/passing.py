"""What the workspace's account at ElevenLabs answered, on its way to who asked.

* It is passed on unchanged, whatever its status is. Only a refusal of the account's own key is not,
  because the caller's key is another one; and no redirect is, which would take that key along.
* Of its headers nothing goes on but what kind of text it is.
"""

from typing import Any, Final

from litestar import Response

from vault.egress import Reply
from vault.errors import UpstreamFailed

_KEY_REFUSED: Final = frozenset({401, 403})
_MOVED: Final = range(300, 400)
_KINDS: Final = frozenset({"application/json", "application/xml", "text/xml", "text/html"})


def passed_on(reply: Reply) -> Response[Any]:
    """The same answer."""
    if reply.status in _KEY_REFUSED or reply.status in _MOVED:
        raise UpstreamFailed(f"The upstream answered {reply.status} to this workspace's own key.")
    kind = (reply.get("Content-Type") or "").partition(";")[0].strip().lower()
    return Response(
        reply.body,
        status_code=reply.status,
        media_type=kind if kind in _KINDS else "application/json",
        headers={"Cache-Control": "no-store"},
    )
