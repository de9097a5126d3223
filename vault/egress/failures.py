"""What went wrong on the way, said without repeating a word of what the error says.

An error of a library may hold all of the request. So what a caller gets is a new one, and is raised
where the old one is not being handled: not even its context leads there.
"""

import ssl
import zlib

import aiohttp

from vault.egress.address import VettedUrl
from vault.egress.wire import Lost, NotHttp
from vault.errors import Unreachable, UpstreamFailed, VaultError


def explained(error: Exception, url: VettedUrl, *, sent: bool) -> VaultError:
    """Say what happened, and whether the request may have been heard."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unreachable(f"{url.place}: no trusted TLS connection.", sent=sent)
    if isinstance(error, TimeoutError):
        return Unreachable(f"{url.place}: no answer in time.", sent=sent)
    if isinstance(error, NotHttp | aiohttp.ClientResponseError | zlib.error):
        return UpstreamFailed(f"{url.place}: the answer is not HTTP that can be read.")
    if isinstance(error, aiohttp.ClientPayloadError) or (isinstance(error, Lost) and error.heard):
        return Unreachable(f"{url.place}: the answer broke off.", sent=True)
    if not sent:
        return Unreachable(f"{url.place}: no connection.", sent=False)
    return Unreachable(f"{url.place}: the connection was lost before the answer.", sent=True)
