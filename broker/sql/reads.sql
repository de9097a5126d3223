-- Handing out tokens by the batch; docs/reference/database.md says what the function may do.

-- name: settled
-- crosses workspaces: each row finds only what the living key belongs to whose whole hash it brings
select place, workspace_id, api_key_id, hash, scopes, key_environments, key_expires_at, user_id,
       integration, environment, provider, asked_scopes, given_scopes, generation, issued_at,
       access_ends, token_generation, sealed, user_key, now
  from vault.token_read(:hashes, :connection_ids, :event_ids, :min_ttls, :request_ids);
