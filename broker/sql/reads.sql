-- Handing out tokens by the batch; docs/reference/database.md says what the function may do. What is no
-- array comes as a text: of texts each has its end of line, numbers have spaces between them.

-- name: settled
-- crosses workspaces: each row finds only what the living key belongs to whose whole hash it brings
select place, workspace_id, api_key_id, hash, scopes, key_environments, key_expires_at, user_id,
       environment, asked_scopes, given_scopes, generation, access_ends, token_generation, sealed,
       user_key, now
  from vault.token_hand_out(
           string_to_array(:hashes, E'\n')::bytea[], string_to_array(:connection_ids, E'\n'),
           string_to_array(:event_ids, E'\n'), string_to_array(:min_ttls, ' ')::integer[],
           string_to_array(:request_ids, E'\n'));
