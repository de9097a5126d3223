"""The table of docs/reference/providers.md, as the catalogue would write it.

``PYTHONPATH=tests python -m support.provider_page`` prints it.
"""

from vault.providers import Catalogue, derived
from vault.providers.schema import Provider

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def row(provider: Provider) -> str:
    """One line of the table."""
    cells = [
        f"`{provider.id}`",
        provider.name if provider.status == "active" else f"{provider.name} ({provider.status})",
        provider.mode or "",
        f"`{provider.extends}`" if provider.extends else "",
        _life(provider),
        _refresh(provider),
        _back(provider),
        _sure(provider),
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> list[str]:
    """Every line of it."""
    return [row(provider) for provider in Catalogue().all()]


def span(seconds: int) -> str:
    """A time as people say it."""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= size - 1:
            return f"{round(seconds / size)} {unit}"
    return f"{seconds} s"


def _life(provider: Provider) -> str:
    if provider.reply.lifetime_seconds:
        return span(provider.reply.lifetime_seconds)
    return "no end" if provider.reply.never_expires else ""


def _refresh(provider: Provider) -> str:
    refresh = provider.refresh
    if refresh.sends == "access_token":
        return "by access token"
    if refresh.issued == "never" or provider.mode in ("api_key", "basic", "custom_header", None):
        return ""
    known = refresh.rotates != "unknown"
    return derived.rotation(provider).replace("_", " ") if known else "unknown"


def _back(provider: Provider) -> str:
    refresh = provider.refresh
    told = []
    if refresh.idle_seconds:
        told.append(f"{span(refresh.idle_seconds)} unused")
    if refresh.end_seconds:
        kind = "unused" if refresh.slides else "in all"
        told.append(f"{span(refresh.end_seconds)} {kind}")
    return ", ".join(told)


def _sure(provider: Provider) -> str:
    sure = provider.confidence
    return f"{sure.endpoints}, {sure.refresh}"


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201 - to be pasted
