-- Where a workspace's runtime is.

-- name: put
-- The first one wins a race; the second one tries again as an update. What was made in an account
-- is forgotten with it.
insert into vault.upstreams
       (workspace_id, kind, generation, base_url, sealed, claim_hash, created_by)
values (:workspace_id, :kind, :generation, :base_url, :sealed, :claim_hash, :created_by)
on conflict (workspace_id, kind) do update
   set generation = excluded.generation, base_url = excluded.base_url, sealed = excluded.sealed,
       claim_hash = excluded.claim_hash, updated_at = now(),
       claimed_at = case when upstreams.claim_hash = excluded.claim_hash
                         then upstreams.claimed_at else now() end,
       runtime_key_id = case when upstreams.claim_hash = excluded.claim_hash
                             then upstreams.runtime_key_id end,
       runtime_secret_id = case when upstreams.claim_hash = excluded.claim_hash
                                then upstreams.runtime_secret_id end
 where upstreams.generation = excluded.generation - 1
returning kind, generation, base_url, sealed, claim_hash, claimed_at, runtime_key_id,
          runtime_secret_id, created_at, updated_at, created_by;

-- name: get
select kind, generation, base_url, sealed, claim_hash, claimed_at, runtime_key_id,
       runtime_secret_id, created_at, updated_at, created_by
  from vault.upstreams
 where workspace_id = :workspace_id and kind = :kind;

-- name: every
select kind, generation, base_url, sealed, claim_hash, claimed_at, runtime_key_id,
       runtime_secret_id, created_at, updated_at, created_by
  from vault.upstreams
 where workspace_id = :workspace_id;

-- name: keep_runtime_key
update vault.upstreams
   set runtime_key_id = :runtime_key_id, runtime_secret_id = :runtime_secret_id
 where workspace_id = :workspace_id and kind = :kind and claim_hash = :claim_hash
returning kind as id;

-- name: delete
delete from vault.upstreams
 where workspace_id = :workspace_id and kind = :kind
returning kind as id;

-- name: claims
-- crosses workspaces: an account belongs to one of them; only who knows its API key has the hash
select workspace_id, claimed_at
  from vault.lookup_upstream(:claim_hash);
