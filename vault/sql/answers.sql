-- Answers of providers that were put aside, and how calls ended.

-- name: keep
insert into vault.refresh_answers (workspace_id, connection_id, fence, kind, sealed)
values (:workspace_id, :connection_id, :fence, :kind, :sealed)
on conflict (workspace_id, connection_id, fence) do nothing;

-- name: get
select sealed
  from vault.refresh_answers
 where workspace_id = :workspace_id and connection_id = :connection_id and fence = :fence
   and kind = 'tokens';

-- name: forget
delete from vault.refresh_answers
 where workspace_id = :workspace_id and connection_id = :connection_id and fence = :fence;

-- name: forget_old
delete from vault.refresh_answers
 where workspace_id = :workspace_id and created_at < now() - interval '1 day';

-- name: note
-- How calls ended; one that was thought lost may end after all.
insert into vault.refresh_attempts
       (workspace_id, connection_id, fence, owner, attempt, began_at, outcome, detail, http_status,
        generation)
select :workspace_id, n.connection_id, n.fence, n.owner, n.attempt, n.began_at, n.outcome, n.detail,
       n.http_status, n.generation
  from unnest(
           :connection_id::text[], :fence::bigint[], :owner::text[], :attempt::text[],
           :began_at::timestamptz[], :outcome::text[], :detail::text[], :http_status::integer[],
           :generation::bigint[])
       as n(connection_id, fence, owner, attempt, began_at, outcome, detail, http_status,
           generation)
on conflict (workspace_id, connection_id, fence) do update
   set ended_at = now(), outcome = excluded.outcome, detail = excluded.detail,
       http_status = excluded.http_status, generation = excluded.generation;

-- name: attempts
-- Newest first.
select fence, owner, attempt, began_at, ended_at, outcome, detail, http_status, generation
  from vault.refresh_attempts
 where workspace_id = :workspace_id and connection_id = :connection_id
 order by fence desc
 limit :limit;

-- name: forget_attempts
delete from vault.refresh_attempts
 where workspace_id = :workspace_id and connection_id = any(:connection_ids::text[])
   and ended_at < now() - interval '30 days';
