"""A provider's file, for tests that say how its refresh tokens behave and nothing else."""

from pathlib import Path
from typing import Final

STRICT: Final = 'rotates = "always"\nold_refresh_token = "strict"\nreplay_revokes = true'

_TEXT: Final = """
id = "{name}"
name = "A provider for tests"
mode = "authorization_code"
categories = ["generic"]
as_of = 2026-11-21

[confidence]
endpoints = "data"
client = "data"
refresh = "data"
lifetime = "data"
identity = "data"
scopes = "data"
quirks = "data"

[variables.base]
label = "Base"
filled_by = "integration"
kind = "url"
pattern = '^https?://127[.]0[.]0[.]1:[0-9]{{1,5}}$'

[authorize]
url = "{{base}}/oauth/authorize"

[token]
url = "{{base}}/oauth/token"
{more}
[client]
auth = "post"

[refresh]
{refresh}

[revoke]
url = "{{base}}/oauth/revoke"
"""


def graceful(seconds: int) -> str:
    """A refresh token that was used is taken again for so long."""
    return f'rotates = "always"\nold_refresh_token = "grace"\ngrace_seconds = {seconds}'


def write_providers(
    folder: Path, refresh: dict[str, str], more: dict[str, str] | None = None
) -> Path:
    """Make the folder, with a file each; ``more``: what else stands in some of them."""
    folder.mkdir()
    for name, behaviour in refresh.items():
        text = _TEXT.format(name=name, refresh=behaviour, more=(more or {}).get(name, ""))
        (folder / f"{name}.toml").write_text(text)
    return folder
