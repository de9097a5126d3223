-- Environment variables and their values. A variable's rows come together, one a value.

-- name: insert
insert into vault.environment_variables (workspace_id, variable_id, label, type, generation, created_by)
values (:workspace_id, :variable_id, :label, :type, 1, :created_by)
on conflict (workspace_id, label) do nothing
returning variable_id, label, type, generation, created_at, updated_at, created_by;

-- name: get
select variable_id, label, type, generation, created_at, updated_at, created_by
  from vault.environment_variables
 where workspace_id = :workspace_id and variable_id = :variable_id;

-- name: list
select v.variable_id, v.label, v.type, v.generation, v.created_at, v.updated_at, v.created_by
  from vault.environment_variables v
 where v.workspace_id = :workspace_id
   and v.variable_id > :after
   and (:label = '' or v.label = :label)
   and (:type = '' or v.type = :type)
   and (:environment = '' or exists (
        select from vault.environment_values e
         where e.workspace_id = v.workspace_id and e.variable_id = v.variable_id
           and e.environment = :environment))
 order by v.variable_id
 limit :limit;

-- name: values
select variable_id, environment, generation, sealed, secret_id, auth_connection_id
  from vault.environment_values
 where workspace_id = :workspace_id and variable_id = any(:variable_ids::text[])
 order by variable_id, environment;

-- name: next_generation
update vault.environment_variables
   set generation = :generation, updated_at = now()
 where workspace_id = :workspace_id and variable_id = :variable_id and generation = :generation - 1
returning variable_id, label, type, generation, created_at, updated_at, created_by;

-- name: put_values
insert into vault.environment_values
       (workspace_id, variable_id, environment, generation, sealed, secret_id, auth_connection_id)
select :workspace_id, :variable_id, one.environment, :generation, one.sealed, one.secret_id,
       one.auth_connection_id
  from unnest(:environments::text[], :sealed::bytea[], :secret_ids::text[], :auth_connection_ids::text[])
       as one (environment, sealed, secret_id, auth_connection_id)
on conflict (workspace_id, variable_id, environment) do update
   set generation = excluded.generation, sealed = excluded.sealed, secret_id = excluded.secret_id,
       auth_connection_id = excluded.auth_connection_id;

-- name: remove_values
delete from vault.environment_values
 where workspace_id = :workspace_id and variable_id = :variable_id
   and environment = any(:environments::text[]);

-- name: delete
delete from vault.environment_variables
 where workspace_id = :workspace_id and variable_id = :variable_id
returning variable_id as id;

-- name: delete_every
-- Before the workspace goes: nothing says that values go before the secrets that they refer to.
delete from vault.environment_variables
 where workspace_id = :workspace_id;

-- name: resolve
-- Everything that a configuration refers to, in one statement: for each label the value of the
-- asked environment and production's, with what a secret holds; and the secrets named by id.
select v.label, v.variable_id, v.type, e.environment, e.generation, e.sealed,
       s.secret_id, s.name as secret_name, s.generation as secret_generation,
       s.sealed as secret_sealed, s.allowed_hosts,
       e.auth_connection_id
  from vault.environment_variables v
  join vault.environment_values e
    on e.workspace_id = v.workspace_id and e.variable_id = v.variable_id
   and e.environment in (:environment, 'production')
  left join vault.secrets s
    on s.workspace_id = e.workspace_id and s.secret_id = e.secret_id
 where v.workspace_id = :workspace_id and v.label = any(:labels::text[])
union all
select '', '', 'secret', '', s.generation, null,
       s.secret_id, s.name, s.generation, s.sealed, s.allowed_hosts, null
  from vault.secrets s
 where s.workspace_id = :workspace_id and s.secret_id = any(:secret_ids::text[]);

-- name: labels
-- Which labels have a value where: what the fallback warnings are made of. Opens nothing.
select v.label, v.type, array_agg(e.environment order by e.environment) as environments
  from vault.environment_variables v
  join vault.environment_values e
    on e.workspace_id = v.workspace_id and e.variable_id = v.variable_id
 where v.workspace_id = :workspace_id
 group by v.label, v.type
 order by v.label;
