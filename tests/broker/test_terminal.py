"""What the commands share."""

import pytest
from conftest import MakeTenant

from broker import terminal
from vault.errors import NotFound
from vault.model import Caller
from vault.vault import Vault

OPERATOR = Caller.operator("tests")


async def test_a_workspace_is_found_by_id_and_by_name_however_many_there_are(
    vault: Vault, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "EVERYTHING", 3)
    made = [(await make_tenant()).id for _ in range(4)]
    listed = [one async for one in terminal.every_workspace(vault, OPERATOR)]
    assert set(made) <= {one.workspace_id for one in listed}
    last = next(one for one in listed if one.workspace_id == made[-1])
    assert await terminal.find_workspace(vault, OPERATOR, last.workspace_id) == last
    assert await terminal.find_workspace(vault, OPERATOR, last.name) == last
    with pytest.raises(NotFound, match="no such workspace"):
        await terminal.find_workspace(vault, OPERATOR, "nobody's")
