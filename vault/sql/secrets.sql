-- name: insert
insert into vault.secrets (workspace_id, secret_id, name, generation, sealed, allowed_hosts, created_by)
values (:workspace_id, :secret_id, :name, 1, :sealed, :allowed_hosts, :created_by)
returning secret_id, name, generation, allowed_hosts, created_at, updated_at;

-- name: get
select secret_id, name, generation, allowed_hosts, created_at, updated_at
  from vault.secrets
 where workspace_id = :workspace_id and secret_id = :secret_id;

-- name: list
select secret_id, name, generation, allowed_hosts, created_at, updated_at
  from vault.secrets
 where workspace_id = :workspace_id
   and secret_id > :after
   and (:prefix = '' or starts_with(name, :prefix))
 order by secret_id
 limit :limit;

-- name: update
update vault.secrets
   set name = :name, generation = :generation, sealed = :sealed, updated_at = now(),
       allowed_hosts = coalesce(:allowed_hosts::text[], allowed_hosts)
 where workspace_id = :workspace_id and secret_id = :secret_id and generation = :generation - 1
returning secret_id, name, generation, allowed_hosts, created_at, updated_at;

-- name: delete
delete from vault.secrets
 where workspace_id = :workspace_id and secret_id = :secret_id
returning secret_id as id;

-- name: used_by
select e.secret_id as id, v.variable_id, v.label, array_agg(e.environment order by e.environment) as environments
  from vault.environment_values e
  join vault.environment_variables v
    on v.workspace_id = e.workspace_id and v.variable_id = e.variable_id
 where e.workspace_id = :workspace_id and e.secret_id = any(:ids::text[])
 group by e.secret_id, v.variable_id, v.label
 order by v.label;

-- name: existing
select secret_id as id
  from vault.secrets
 where workspace_id = :workspace_id and secret_id = any(:ids::text[]);
