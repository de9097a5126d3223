-- Minting by the batch; docs/reference/database.md says what the two functions may do.

-- name: look
-- crosses workspaces: each row finds only what the living key belongs to whose whole hash it brings
select generation, profile, user_key, key_id, version, wrapped, root_key_id, index_key, place,
       workspace_id, api_key_id, hash, rights, key_unnoticed, environment, agent_generation,
       agent_sealed, has_upstream, now, connection_ids, shape, lives, token_ids, tokens
  from vault.mint_find(:hashes, :user_ids, :environments, :agent_ids);

-- name: write
-- crosses workspaces: each row writes only into the workspace of the living key whose hash it brings
select conversation_id, created_at, start_by, expires_at
  from vault.mint_write_down(
           :hashes, :workspace_ids, :conversation_ids, :event_ids, :user_ids, :user_refs, :agent_ids,
           :environments, :runtimes, :channels, :deliveries, :branch_ids, :reached, :kept, :armed,
           :bearer_kinds, :bearer_hashes, :ticket_hashes, :start_within, :lasts, :promised,
           :request_ids, :looking, :token_ids, :token_generations, :unnoticed);
