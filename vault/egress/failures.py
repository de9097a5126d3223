"""What went wrong on the way, said without repeating a word of what the error says.

An error of a library may hold all of the request. So what a caller gets is a new one, and is raised
where the old one is not being handled: not even its context leads there.
"""

import ssl
import zlib

import aiohttp

from vault.egress.address import VettedUrl
from vault.egress.messages import Reply
from vault.egress.wire import Exchange, Lost, NotHttp, Overflow
from vault.errors import AnswerTooLarge, Unreachable, UpstreamFailed, VaultError


def ended_as(exchange: Exchange, url: VettedUrl) -> Reply | VaultError:
    """What an exchange came to: its answer, or what is raised in its stead."""
    error = exchange.error
    if error is None:
        return exchange.reply()
    if isinstance(error, VaultError):
        return error
    return explained(error, url, sent=True)


def explained(error: Exception, url: VettedUrl, *, sent: bool) -> VaultError:  # noqa: PLR0911 - one a kind
    """Say what happened, and whether the request may have been heard."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unreachable(f"{url.place}: no trusted TLS connection.", sent=sent)
    if isinstance(error, TimeoutError):
        return Unreachable(f"{url.place}: no answer in time.", sent=sent)
    if isinstance(error, Overflow):
        return AnswerTooLarge(f"{url.place}: the answer is larger than {error.limit} bytes.")
    if isinstance(error, NotHttp | aiohttp.ClientResponseError | zlib.error):
        return UpstreamFailed(f"{url.place}: the answer is not HTTP that can be read.")
    if isinstance(error, aiohttp.ClientPayloadError) or (isinstance(error, Lost) and error.heard):
        return Unreachable(f"{url.place}: the answer broke off.", sent=True)
    if not sent:
        return Unreachable(f"{url.place}: no connection.", sent=False)
    return Unreachable(f"{url.place}: the connection was lost before the answer.", sent=True)
