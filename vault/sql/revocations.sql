-- What is still to be given back to a provider.

-- name: insert
-- Due when the try that follows has had its time.
insert into vault.revocations
       (workspace_id, revocation_id, connection_id, integration, environment, due_at, give_up_at)
values (:workspace_id, :revocation_id, :connection_id, :integration, :environment,
        now() + interval '1 minute', now() + interval '1 day');

-- name: insert_tokens
insert into vault.revocation_tokens (workspace_id, revocation_id, sealed)
values (:workspace_id, :revocation_id, :sealed);

-- name: due
-- As the worker, which sees no more than this of any workspace.
select workspace_id, revocation_id as id
  from vault.revocations
 where due_at <= now()
 order by due_at
 limit :limit;

-- name: claim
-- The next try is put off before this one begins: a process that dies in between repeats nothing
-- at once, and two of them do not try together.
update vault.revocations
   set attempts = attempts + 1,
       due_at = now() + least(power(2, attempts), 60) * interval '1 minute'
 where workspace_id = :workspace_id and revocation_id = :revocation_id and due_at <= now()
returning revocation_id, connection_id, integration, environment, give_up_at <= now() as too_late;

-- name: sealed
select sealed
  from vault.revocation_tokens
 where workspace_id = :workspace_id and revocation_id = :revocation_id;

-- name: delete
delete from vault.revocations
 where workspace_id = :workspace_id and revocation_id = :revocation_id;
