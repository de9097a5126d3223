-- What this deployment is, and how far its schema has come. Global: these cross no workspace's rows.

-- name: get
select deployment_id, pepper, root_key_id
  from vault.deployment;

-- name: insert
-- The first process to start makes it; the others find it.
insert into vault.deployment (deployment_id, pepper, root_key_id)
values (:deployment_id, :pepper, :root_key_id)
on conflict (singleton) do nothing
returning deployment_id, pepper, root_key_id;

-- name: schema_versions
-- `needs`: code that knows less than this version of the part does not run on the schema any more.
select part, max(version) as version, max(needs) as needs
  from vault.schema_migrations
 group by part;

-- name: now
-- The one clock that all replicas agree on.
select now() as now;
