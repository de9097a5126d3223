"""``keyturn provider``: the catalogue at the terminal. Needs no database and no root key.

Exit codes are those of ``keyturn``: 0 done, 1 refused.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from broker.settings import Settings
from broker.terminal import (
    always_json,
    as_json,
    fail,
    print_done,
    print_json,
)
from vault.errors import Misconfigured, NotFound
from vault.providers import Catalogue, schema_json
from vault.settings import read


@click.group()
def provider() -> None:
    """The catalogue of providers: look into it, and check files of your own."""


@provider.command("list")
@click.option("--category", help="Only these, as in crm or chat.")
@as_json
def provider_list(category: str | None, *, json_output: bool) -> None:
    """List the providers."""
    found = [one for one in _catalogue().all() if category in (None, *one.categories)]
    if json_output:
        print_json([{"id": one.id, "name": one.name, "status": one.status} for one in found])
        return
    for one in found:
        status = "" if one.status == "active" else f"  ({one.status})"
        click.echo(f"{one.id:28} {one.name}{status}")


@provider.command("show")
@click.argument("provider_id", metavar="ID")
@as_json
def provider_show(provider_id: str, *, json_output: bool) -> None:
    """Show all that is known of a provider, with what it extends."""
    try:
        found = _catalogue().get(provider_id)
    except (NotFound, Misconfigured) as error:
        fail(error.message)
    if json_output:
        print_json(found)
        return
    for path, value in _lines("", msgspec.to_builtins(found)):
        click.echo(f"{path} = {value}")


@provider.command("check")
@click.argument(
    "place", metavar="[FILE|DIR]", required=False, type=click.Path(exists=True, path_type=Path)
)
@as_json
def provider_check(place: Path | None, *, json_output: bool) -> None:
    """Check a file, a folder, or the whole catalogue as it is configured.

    A file may extend providers of the catalogue; in a folder, files may extend each other.
    """
    try:
        if place is not None and place.is_file():
            _catalogue().check_file(place)
            print_done({"checked": 1}, f"{place.name}: good", json_output=json_output)
            return
        catalogue = Catalogue(place) if place is not None else _catalogue()
        count = sum(1 for _ in catalogue.all())
    except Misconfigured as error:
        fail(error.message)
    print_done({"checked": count}, f"{count} providers: good", json_output=json_output)


@provider.command("schema")
@always_json
def provider_schema() -> None:
    """Print the JSON schema of a provider's file, for editors."""
    click.echo(schema_json().decode(), nl=False)


def _catalogue() -> Catalogue:
    try:
        return Catalogue(read(Settings, os.environ).providers_dir)
    except Misconfigured as error:
        fail(error.message)


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - what the file said
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(f"{path}.{key}" if path else key, inner)
        return
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _lines(f"{path}[{number}]", inner)
        return
    yield path, msgspec.json.encode(value).decode()
