"""What belongs to one user: where it is sealed, and what opens it once the user's key is at hand.

* A user's values lie under keys that follow from the user's own, which is sealed under a key of the
  workspace. So opening one takes two steps, and many of one user one more than there are.
"""

from collections.abc import Awaitable, Callable

from vault.model import UserId, WorkspaceId
from vault.seal import Context, SealingKey, open_sealed

KeyOf = Callable[[WorkspaceId, bytes], Awaitable[SealingKey]]
"""The key of a workspace that has sealed these bytes."""


class Owner:
    """Opens what belongs to one user: the user's own key is opened once for all of it."""

    def __init__(self, key_of: KeyOf, workspace: WorkspaceId, user_key: bytes) -> None:
        self._key_of = key_of
        self._workspace = workspace
        self._user_key = user_key
        self._keys: dict[bytes, SealingKey] = {}

    def __repr__(self) -> str:
        return "Owner(***)"

    async def open(self, context: Context, sealed: bytes) -> bytes:
        """Open one value of the user."""
        found = self.open_at_hand(context, sealed)
        if found is None:
            key = self.key(await self._key_of(self._workspace, sealed))
            found = open_sealed(key, context, sealed)
        return found

    def open_at_hand(self, context: Context, sealed: bytes) -> bytes | None:
        """The same without a wait; ``None`` where the key has to be fetched."""
        for key in self._keys.values():  # one, or two while the workspace's key is being changed
            if sealed.startswith(key.head):
                return open_sealed(key, context, sealed)
        return None

    def key(self, workspace_key: SealingKey) -> SealingKey:
        """What seals the user's rows under this key of the workspace."""
        known = self._keys.get(workspace_key.key_id)
        if known is None:
            known = self._keys[workspace_key.key_id] = workspace_key.for_user(self._user_key)
        return known


def opened_under(
    key: SealingKey,
    workspace: WorkspaceId,
    user_id: str,
    sealed_user_key: bytes,
    context: Context,
    sealed: bytes,
) -> tuple[bytes, SealingKey] | None:
    """One value of a user, and the user's own key, where this key of the workspace has sealed both;
    else ``None``.
    """
    if not (sealed_user_key.startswith(key.head) and sealed.startswith(key.head)):
        return None
    user_key = open_sealed(key, user_key_context(workspace, user_id), sealed_user_key)
    own = key.for_user(user_key)
    return open_sealed(own, context, sealed), own


def index_key_context(workspace: WorkspaceId) -> Context:
    return Context(workspace=workspace, table="index_keys", row="", field="sealed", generation=1)


def user_key_context(workspace: WorkspaceId, user_id: str) -> Context:
    return Context(
        workspace=workspace, table="user_keys", row=user_id, field="sealed", generation=1
    )


def profile_context(workspace: WorkspaceId, user_id: UserId, generation: int) -> Context:
    return Context(
        workspace=workspace, table="users", row=user_id, field="profile", generation=generation
    )
