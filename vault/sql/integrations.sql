-- App registrations of a workspace at providers.

-- name: put
-- The first one wins a race for a new integration; the second one tries again as an update.
insert into vault.integrations
       (workspace_id, integration, provider, generation, sealed, secret_ids, share_connections,
        refresh_policy, created_by)
values (:workspace_id, :integration, :provider, :generation, :sealed, :secret_ids,
        :share_connections, :refresh_policy, :created_by)
on conflict (workspace_id, integration) do update
   set provider = excluded.provider, generation = excluded.generation, sealed = excluded.sealed,
       secret_ids = excluded.secret_ids, share_connections = excluded.share_connections,
       refresh_policy = excluded.refresh_policy,
       updated_at = now()
 where integrations.generation = excluded.generation - 1
returning integration, provider, generation, sealed, share_connections, created_at, updated_at,
          created_by;

-- name: get
select integration, provider, generation, sealed, share_connections, created_at, updated_at,
       created_by
  from vault.integrations
 where workspace_id = :workspace_id and integration = :integration;

-- name: list
select integration, provider, generation, sealed, share_connections, created_at, updated_at,
       created_by
  from vault.integrations
 where workspace_id = :workspace_id and integration > :after
 order by integration
 limit :limit;

-- name: delete
delete from vault.integrations
 where workspace_id = :workspace_id and integration = :integration
returning integration as id;

-- name: using_secret
select integration as id
  from vault.integrations
 where workspace_id = :workspace_id and :secret_id = any(secret_ids)
 order by integration;

-- name: connected
select count(*) as number
  from vault.connections
 where workspace_id = :workspace_id and integration = :integration;
