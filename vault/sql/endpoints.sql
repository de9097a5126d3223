-- A token endpoint as one app registration reaches it.

-- name: lock
-- `heard`: does anybody want to hear of its refreshes?
select standing, learned, now() as now,
       exists (select from vault.event_endpoints e
                where e.workspace_id = :workspace_id
                  and (e.types = '{}' or 'connection.refreshed' = any(e.types))) as heard
  from vault.token_endpoints
 where workspace_id = :workspace_id and integration = :integration and environment = :environment
   for no key update;

-- name: begin
-- One that nobody has called yet, so that there is a row to lock: who finds none is not alone.
insert into vault.token_endpoints
       (workspace_id, integration, environment, provider, standing, broken, resting_until, learned)
values (:workspace_id, :integration, :environment, :provider, 'open', false, null, :learned)
on conflict (workspace_id, integration, environment) do nothing;

-- name: write
insert into vault.token_endpoints
       (workspace_id, integration, environment, provider, standing, broken, resting_until, learned)
values (:workspace_id, :integration, :environment, :provider, :standing, :broken, :resting_until,
        :learned)
on conflict (workspace_id, integration, environment) do update
   set provider = excluded.provider, standing = excluded.standing, broken = excluded.broken,
       resting_until = excluded.resting_until, learned = excluded.learned;

-- name: of_integration
select environment, standing, resting_until, learned
  from vault.token_endpoints
 where workspace_id = :workspace_id and integration = :integration
 order by environment
   for no key update;
