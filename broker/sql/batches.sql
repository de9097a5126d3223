-- Minting by the batch; docs/reference/database.md says what the two functions may do. What is no array
-- comes as a text: of texts each has its end of line, numbers have spaces between them. Branches have
-- any names, with line breaks, too, and so stay an array.

-- name: look
-- crosses workspaces: each row finds only what the living key belongs to whose whole hash it brings
select generation, profile, user_key, key_id, version, wrapped, root_key_id, index_key, place,
       workspace_id, api_key_id, hash, rights, key_unnoticed, environment, agent_generation,
       agent_sealed, has_upstream, now, connection_ids, shape, lives, token_ids, tokens
  from vault.mint_find(:hashes, string_to_array(:user_ids, E'\n'), string_to_array(:environments, E'\n'),
                       string_to_array(:agent_ids, E'\n'));

-- name: write
-- crosses workspaces: each row writes only into the workspace of the living key whose hash it brings
select created_at, start_by, expires_at, conversation_id
  from vault.mint_write_down(
           :hashes,
           string_to_array(:workspace_ids, E'\n'), string_to_array(:conversation_ids, E'\n'),
           string_to_array(:event_ids, E'\n'), string_to_array(:user_ids, E'\n'),
           string_to_array(:user_refs, E'\n'), string_to_array(:agent_ids, E'\n'),
           string_to_array(:environments, E'\n'), string_to_array(:runtimes, E'\n'),
           string_to_array(:channels, E'\n'), string_to_array(:deliveries, E'\n'),
           :branch_ids,
           string_to_array(:reached, E'\n'),
           :kept,
           string_to_array(:armed, ' ')::boolean[],
           string_to_array(:bearer_kinds, E'\n', ''),
           :bearer_hashes, :ticket_hashes,
           string_to_array(:start_within, ' ')::integer[], string_to_array(:lasts, ' ')::integer[],
           string_to_array(:promised, ' ')::integer[],
           string_to_array(:request_ids, E'\n'),
           string_to_array(:looking, ' ')::boolean[],
           string_to_array(:token_ids, E'\n'), string_to_array(:token_generations, E'\n'),
           string_to_array(:unnoticed, ' ')::boolean[]);
