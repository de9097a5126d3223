-- News for the platform.

-- name: insert
insert into vault.outbox (workspace_id, event_id, type, body)
select :workspace_id, n.event_id, n.type, n.body
  from unnest(:event_ids::text[], :types::text[], :bodies::text[]) as n(event_id, type, body);
