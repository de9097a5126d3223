"""What is over is forgotten after a while: conversations, with all that is kept of them.

* A conversation is listed for 30 days after it was made, and lasts eight hours at most: none that
  runs is ever forgotten. What was done stays in the record.
* The worker finds where there are old ones; each workspace's are then deleted as that workspace.
"""

from typing import Final

from broker import conversations
from vault.model import Caller
from vault.vault import Vault

KEPT_DAYS: Final = 30
ROWS: Final = 1_000  # in one transaction
PLACES: Final = 1_000  # workspaces in one round
ROUNDS: Final = 10


class Forgetting:
    """Deletes what has been kept for long enough."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def conversations(self) -> int:
        """Delete old conversations; returns how many."""
        forgotten = 0
        for _ in range(ROUNDS):
            places = await conversations.with_old(self._vault, KEPT_DAYS, PLACES)
            for workspace in places:
                nobody = Caller(kind="worker", actor_id="forgetting", workspace=workspace)
                forgotten += await self._vault.within(
                    nobody, lambda tx: conversations.forget(tx, KEPT_DAYS, ROWS)
                )
            if not places:
                break
        return forgotten
