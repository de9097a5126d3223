"""Answers, and the few pages that a person sees. They need no script, and no style of others."""

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import urlencode

from msgspec import Struct, json

from broker.sandbox.dialect import Json
from broker.sandbox.knobs import Person

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
STYLE: Final = (
    ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}"
    "body{max-width:32rem;margin:2rem auto;padding:0 1rem}"
    "fieldset{border:1px solid;border-radius:.5rem;margin:1rem 0}"
    "label{display:block;padding:.5rem}"
    "button{font:inherit;padding:.5rem 1.5rem;margin-right:.5rem}"
)
# A form that posts itself, for those who have scripts; the button is for those who have none.
SUBMIT: Final = "document.forms[0].submit()"


def _source(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# No form-action: browsers apply it to the redirect that follows, which goes to the client.
POLICY: Final = (
    f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SUBMIT)};"
    " base-uri 'none'; frame-ancestors 'none'"
)


class Answer(Struct, frozen=True, kw_only=True):
    """What goes back."""

    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    body: bytes = b""


def told(content: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON that nobody may keep."""
    return Answer(status=status, headers=NO_STORE | dict(headers or {}), body=json.encode(content))


def sent_to(address: str, values: Mapping[str, str], fragment: str = "") -> Answer:
    """A redirect that takes values along."""
    joined = address + ("&" if "?" in address else "?") + urlencode(values)
    headers = NO_STORE | {"Location": joined + (f"#{fragment}" if fragment else "")}
    return Answer(status=303, content_type="text/plain", headers=headers)


def posted_to(address: str, values: Mapping[str, str]) -> Answer:
    """A page that posts values to an address (OAuth 2.0 Form Post Response Mode)."""
    fields = "".join(_hidden(name, value) for name, value in values.items())
    return _page(
        "Going back",
        f'<form method="post" action="{escape(address)}">{fields}'
        f"<button>Continue</button></form><script>{SUBMIT}</script>",
    )


def consent(
    ticket: str, client: str, scopes: tuple[str, ...], people: Mapping[str, Person], first: str
) -> Answer:
    """Who are you, and do you allow this?"""
    choices = "".join(
        f'<label><input type="radio" name="account" value="{escape(name)}"'
        f"{' checked' if name == first else ''}> {escape(one.name)} ({escape(one.email)})</label>"
        for name, one in people.items()
    )
    wanted = "".join(f"<li><code>{escape(scope)}</code></li>" for scope in scopes)
    return _page(
        "Allow access?",
        f"<p><strong>{escape(client)}</strong> asks for access to your account at the sandbox.</p>"
        + (f"<p>It wants:</p><ul>{wanted}</ul>" if scopes else "")
        + f'<form method="post" action="/consent">{_hidden("ticket", ticket)}'
        f"<fieldset><legend>Account</legend>{choices}</fieldset>"
        '<button name="decision" value="allow">Allow</button>'
        '<button name="decision" value="deny">Deny</button></form>',
    )


def device(code: str) -> Answer:
    """Which device?"""
    return _page(
        "Connect a device",
        '<form method="post" action="/device"><label>Code that the device shows: '
        f'<input name="user_code" value="{escape(code)}" autocomplete="off" required></label>'
        "<button>Continue</button></form>",
    )


def said(title: str, *lines: str, status: int = 200) -> Answer:
    """A page that ends something."""
    return _page(title, "".join(f"<p>{escape(line)}</p>" for line in lines), status)


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def _page(title: str, content: str, status: int = 200) -> Answer:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} - sandbox</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{content}</main></body></html>"
    )
    return Answer(
        status=status,
        content_type="text/html; charset=utf-8",
        headers=NO_STORE
        | {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        },
        body=text.encode(),
    )
