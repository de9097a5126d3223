-- News for the platform.

-- name: insert
-- What happened, and a delivery to each endpoint that wants to hear of it: one statement, in the
-- transaction of what happened. Refreshes are by far the most that happens: of them is written
-- what there is an endpoint for, be it disabled.
with made as (
    insert into vault.outbox (workspace_id, event_id, type, body)
    select :workspace_id, n.event_id, n.type, n.body
      from unnest(:event_ids::text[], :types::text[], :bodies::text[]) as n(event_id, type, body)
     where n.type <> 'connection.refreshed'
        or exists (select from vault.event_endpoints e
                    where e.workspace_id = :workspace_id
                      and (e.types = '{}' or n.type = any(e.types)))
    returning event_id, type
)
insert into vault.event_deliveries (workspace_id, event_id, endpoint_id)
select :workspace_id, m.event_id, e.endpoint_id
  from made m
  join vault.event_endpoints e on e.workspace_id = :workspace_id
 where e.disabled_at is null and (e.types = '{}' or m.type = any(e.types));

-- name: replayable
-- What an endpoint would hear once more, oldest first.
select o.event_id as id
  from vault.outbox o
  join vault.event_endpoints e on e.workspace_id = o.workspace_id
 where o.workspace_id = :workspace_id and e.endpoint_id = :endpoint_id
   and (e.types = '{}' or o.type = any(e.types))
   and o.event_id >= :from_event and (:since::timestamptz is null or o.at >= :since)
 order by o.event_id
 limit :limit;

-- name: has
select event_id as id
  from vault.outbox
 where workspace_id = :workspace_id and event_id = :event_id;

-- name: old
-- crosses workspaces: the worker's look-up, which sees no more than this of any of them
select o.workspace_id
  from vault.outbox o
 where o.at < now() - :seconds::integer * interval '1 second'
 order by o.at
 limit :limit;

-- name: forget
-- Its deliveries go with it.
delete from vault.outbox
 where workspace_id = :workspace_id and at < now() - :seconds::integer * interval '1 second'
   and event_id in (select o.event_id
                      from vault.outbox o
                     where o.workspace_id = :workspace_id
                     order by o.event_id
                     limit :limit)
returning event_id as id;
