-- Events on their way.

-- name: due
-- crosses workspaces: the worker's look-up, which sees no more than this of any of them
-- Goes from endpoint to endpoint in the index and looks at the first waiting delivery of each, so
-- that a million that wait for one endpoint cost no more than one.
with recursive first as (
    (select d.workspace_id, d.endpoint_id, d.due_at
       from vault.event_deliveries d
      where d.due_at is not null
      order by d.workspace_id, d.endpoint_id, d.due_at
      limit 1)
    union all
    select n.workspace_id, n.endpoint_id, n.due_at
      from first f,
           lateral (select d.workspace_id, d.endpoint_id, d.due_at
                      from vault.event_deliveries d
                     where d.due_at is not null
                       and (d.workspace_id, d.endpoint_id) > (f.workspace_id, f.endpoint_id)
                     order by d.workspace_id, d.endpoint_id, d.due_at
                     limit 1) n
)
select e.workspace_id, e.endpoint_id, e.failures
  from first f
  join vault.event_endpoints e
    on e.workspace_id = f.workspace_id and e.endpoint_id = f.endpoint_id
 where f.due_at <= now() and (e.rest_until is null or e.rest_until <= now())
   and (e.claimed_until is null or e.claimed_until <= now())
 order by f.due_at
 limit :limit;

-- name: waiting
select d.event_id, o.type, o.at, o.body, d.attempts, d.queued_at
  from vault.event_deliveries d
  join vault.outbox o on o.workspace_id = d.workspace_id and o.event_id = d.event_id
 where d.workspace_id = :workspace_id and d.endpoint_id = :endpoint_id and d.due_at <= now()
 order by d.due_at, d.event_id
 limit :limit;

-- name: settle
update vault.event_deliveries d
   set state = n.state, due_at = n.due_at, attempts = d.attempts + 1, tried_at = now(),
       status = n.status, problem = n.problem
  from unnest(:event_ids::text[], :states::text[], :due_at::timestamptz[], :statuses::integer[],
              :problems::text[]) as n(event_id, state, due_at, status, problem)
 where d.workspace_id = :workspace_id and d.endpoint_id = :endpoint_id
   and d.event_id = n.event_id and d.state = 'waiting';

-- name: hurry
-- What was put off for the sake of what has just been changed is tried now.
update vault.event_deliveries
   set due_at = now()
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id and due_at > now();

-- name: give_up
update vault.event_deliveries
   set state = 'failed', due_at = null, problem = coalesce(problem, :problem)
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id and due_at is not null;

-- name: queue
-- Once more from the beginning, whatever became of it before.
insert into vault.event_deliveries (workspace_id, event_id, endpoint_id)
select :workspace_id, n.event_id, :endpoint_id
  from unnest(:event_ids::text[]) as n(event_id)
on conflict (workspace_id, event_id, endpoint_id) do update
   set state = 'waiting', queued_at = now(), due_at = now(), attempts = 0;

-- name: list
-- Newest first.
select d.event_id, o.type, o.at, d.state, d.attempts, d.due_at, d.tried_at, d.status, d.problem
  from vault.event_deliveries d
  join vault.outbox o on o.workspace_id = d.workspace_id and o.event_id = d.event_id
 where d.workspace_id = :workspace_id and d.endpoint_id = :endpoint_id
   and (:before = '' or d.event_id < :before) and (:state = '' or d.state = :state)
 order by d.event_id desc
 limit :limit;
