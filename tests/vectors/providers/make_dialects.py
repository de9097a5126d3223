"""Write dialects.json: how every code-flow provider speaks, as the sandbox's ``Dialect``.

    python tests/vectors/providers/make_dialects.py path/to/providers.json

* ``providers.json`` is the collection of facts from which the catalogue, too, was written once. It
  is not in this repository: dialects.json is what was taken of it, frozen, and it is made anew
  only on purpose.
* Nothing of ours is read: neither the catalogue nor the engine, which the dialects are there to
  test. What the facts leave open stands in the tables beside.
* One line a record, in the order of the facts, keys sorted: a changed fact is a changed line.
* An address ``https://host/path`` becomes ``host/path`` below the dialect, so that a wrong host is
  noticed like a wrong path.
"""

import json
import sys
from pathlib import Path
from typing import Final

from dialect_replies import Facts, Found
from dialect_requests import Maker
from dialect_tables import MORE_SCOPES

OUT: Final = Path(__file__).with_name("dialects.json")
NAMES: Final = {
    "generic-jwt-bearer": "jwt-bearer",
    "generic-oauth2": "oauth2",
    "generic-oauth2-client-credentials": "oauth2-client-credentials",
    "generic-oidc": "oidc",
    "mcp-oauth": "mcp",
}
ALONE: Final = ("jwt_bearer", "oauth2_client_credentials")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Say where providers.json is; it is not in this repository.")
    facts = json.loads(Path(sys.argv[1]).read_bytes())
    spoken = [recorded(one) for one in facts if one["auth_mode"] == "oauth2_code"]
    alone = [recorded(one) for one in facts if one["auth_mode"] in ALONE]
    others = [
        {"id": one["id"], "mode": one["auth_mode"]}
        for one in facts
        if one["auth_mode"] not in ("oauth2_code", *ALONE)
    ]
    parts = {"others": others, "alone": alone, "providers": spoken}
    told = ",\n".join(f'"{name}": [\n{lines(rows)}\n]' for name, rows in parts.items())
    OUT.write_text(f"{{\n{told}\n}}\n")


def lines(rows: list[Found]) -> str:
    """One line a row."""
    return ",\n".join(json.dumps(one, sort_keys=True) for one in rows)


def recorded(facts: Facts) -> Found:
    """One provider: what a test fills in, how it speaks, and what a right reader makes of it."""
    maker = Maker(facts)
    dialect, expected = maker.dialect(), maker.expected()
    return {
        "id": facts["id"],
        "provider": NAMES.get(facts["id"], facts["id"]),
        "fill": {k: v for k, v in maker.fill.items() if k not in maker.told},
        "scopes": maker.scopes,
        "more_scopes": {
            name: MORE_SCOPES[facts["id"]]
            for name, one in facts["extra_scope_params"].items()
            if one["token"] != "main"
        },
        "dialect": dialect,
        "expected": expected,
        "failures": maker.failures(),
    }


if __name__ == "__main__":
    main()
