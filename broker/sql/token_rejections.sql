-- What conversations say that a provider's API refused.

-- name: first
-- A row where nobody in this conversation has refused this generation, or a newer one, before.
insert into vault.token_rejections as r (workspace_id, conversation_id, connection_id, generation)
values (:workspace_id, :conversation_id, :connection_id, :generation)
on conflict (workspace_id, conversation_id, connection_id) do update
   set generation = excluded.generation, rejected_at = now()
 where r.generation < excluded.generation
returning generation;
