-- name: insert
insert into vault.auth_connections
       (workspace_id, auth_connection_id, name, auth_type, generation, sealed, allowed_hosts, status, created_by)
values (:workspace_id, :auth_connection_id, :name, :auth_type, 1, :sealed, :allowed_hosts, 'active', :created_by)
returning auth_connection_id, name, auth_type, generation, sealed, allowed_hosts, status, status_detail, status_updated_at;

-- name: get
select auth_connection_id, name, auth_type, generation, sealed, allowed_hosts, status, status_detail, status_updated_at
  from vault.auth_connections
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id;

-- name: list
select auth_connection_id, name, auth_type, generation, sealed, allowed_hosts, status, status_detail, status_updated_at
  from vault.auth_connections
 where workspace_id = :workspace_id
 order by auth_connection_id;

-- name: update
-- A changed credential is a new chance: the status starts over.
update vault.auth_connections
   set generation = :generation, sealed = :sealed, status = 'active', status_detail = null,
       status_updated_at = now(), allowed_hosts = coalesce(:allowed_hosts::text[], allowed_hosts)
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
   and generation = :generation - 1
returning auth_connection_id, name, auth_type, generation, sealed, allowed_hosts, status, status_detail, status_updated_at;

-- name: set_status
update vault.auth_connections
   set status = :status, status_detail = :status_detail, status_updated_at = now()
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
   and generation = :generation
   and (status <> :status or status_detail is distinct from :status_detail);

-- name: delete
delete from vault.auth_connections
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
returning auth_connection_id as id;

-- name: used_by
select e.auth_connection_id as id, v.variable_id, v.label, array_agg(e.environment order by e.environment) as environments
  from vault.environment_values e
  join vault.environment_variables v
    on v.workspace_id = e.workspace_id and v.variable_id = e.variable_id
 where e.workspace_id = :workspace_id and e.auth_connection_id = any(:ids::text[])
 group by e.auth_connection_id, v.variable_id, v.label
 order by v.label;

-- name: existing
select auth_connection_id as id
  from vault.auth_connections
 where workspace_id = :workspace_id and auth_connection_id = any(:ids::text[]);
