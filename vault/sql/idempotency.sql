-- name: impatient
-- Whoever holds the same key is still at work: say so rather than wait for it.
select set_config('lock_timeout', '100ms', true);

-- name: patient
select set_config('lock_timeout', '0', true);

-- name: claim
insert into vault.idempotency (workspace_id, caller, key_hash, fingerprint, result)
values (:workspace_id, :caller, :key_hash, :fingerprint, '')
on conflict (workspace_id, caller, key_hash) do nothing
returning key_hash;

-- name: get
select fingerprint, result, extract(epoch from now() - created_at)::float8 as age
  from vault.idempotency
 where workspace_id = :workspace_id and caller = :caller and key_hash = :key_hash;

-- name: settle
update vault.idempotency
   set result = :result
 where workspace_id = :workspace_id and caller = :caller and key_hash = :key_hash;

-- name: turn
update vault.idempotency
   set result = :after
 where workspace_id = :workspace_id and caller = :caller and key_hash = :key_hash
   and result = :before
returning key_hash;

-- name: let_go
delete from vault.idempotency
 where workspace_id = :workspace_id and caller = :caller and key_hash = :key_hash
   and result = :before;

-- name: forget_old
-- A day is what the contract promises; the caller who comes next takes its own old ones away.
delete from vault.idempotency
 where workspace_id = :workspace_id and caller = :caller
   and created_at < now() - interval '24 hours';
