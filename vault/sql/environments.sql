-- Environments; production has no row.

-- name: list
select name, updated_at, created_by
  from vault.environments
 where workspace_id = :workspace_id
 order by name;

-- name: insert
insert into vault.environments (workspace_id, name, created_by)
values (:workspace_id, :name, :created_by)
on conflict (workspace_id, name) do nothing
returning name, updated_at, created_by;

-- name: insert_named
-- A value brings its environment along.
insert into vault.environments (workspace_id, name, created_by)
select :workspace_id, one.name, :created_by
  from unnest(:names::text[]) as one (name)
 where one.name <> 'production'
on conflict (workspace_id, name) do nothing;

-- name: delete
delete from vault.environments
 where workspace_id = :workspace_id and name = :name
returning name;

-- name: delete_values
delete from vault.environment_values
 where workspace_id = :workspace_id and environment = :name;

-- name: settings
select secret_fallback, return_origins
  from vault.workspace_settings
 where workspace_id = :workspace_id;

-- name: set_settings
insert into vault.workspace_settings (workspace_id, secret_fallback, return_origins)
values (:workspace_id, :secret_fallback, :return_origins)
on conflict (workspace_id) do update
   set secret_fallback = excluded.secret_fallback, return_origins = excluded.return_origins;
