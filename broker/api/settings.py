"""/v1/settings: what a workspace has chosen for itself."""

from litestar import Router, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api.messages import SettingsBody, WarningOut
from broker.api.requests import requires
from broker.api.responses import guarded
from vault.model import Caller
from vault.vault import Vault


@get(guards=requires("settings.read"), responses=guarded(), summary="Get the settings")
async def read(caller: NamedDependency[Caller], vault: NamedDependency[Vault]) -> SettingsBody:
    """Get what the workspace has chosen."""
    found = await vault.get_settings(caller)
    return SettingsBody(secret_fallback=found.secret_fallback, return_origins=found.return_origins)


@put(
    guards=requires("settings.write"),
    responses=guarded("malformed", "too_large", "invalid"),
    summary="Replace the settings",
)
async def write(
    data: JSONBody[SettingsBody], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> SettingsBody:
    """With `secret_fallback` off, secrets and auth connections do not fall back to production."""
    await vault.put_settings(caller, data.settings())
    return data


@get(
    "/warnings",
    guards=requires("variable.list"),
    responses=guarded(),
    summary="List the fallback warnings",
)
async def warnings(
    caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> list[WarningOut]:
    """Every host that an environment overrides beside a secret that falls back to production."""
    return [WarningOut.of(one) for one in await vault.fallback_warnings(caller)]


router = Router("/v1/settings", route_handlers=[read, write, warnings], tags=["settings"])
