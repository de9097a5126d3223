-- Everything that is sealed: listed with what its context is made of, and replaced if it is still
-- what was listed. ``other_than`` is a key's id: what is sealed under that key is left out.

-- name: parts
-- Whose tables there are. Global: it crosses no workspace's rows.
select distinct part
  from vault.schema_migrations;

-- name: list_index_keys
select ''::text as id, 1::bigint as generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.index_keys t
 where t.workspace_id = :workspace_id
   and :after::text = ''
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by ''::text
 limit :limit;

-- name: replace_index_keys
update vault.index_keys t
   set sealed = n.after
  from unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
 where t.workspace_id = :workspace_id and t.sealed = n.before
returning n.id;

-- name: list_user_keys
select t.user_id as id, 1::bigint as generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.user_keys t
 where t.workspace_id = :workspace_id
   and t.user_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.user_id
 limit :limit;

-- name: replace_user_keys
with mine as (
    select t.user_id, n.after
      from vault.user_keys t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.user_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.user_id = any(:ids::text[])
     order by t.user_id
       for no key update of t skip locked)
update vault.user_keys t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.user_id = m.user_id
returning t.user_id as id;

-- name: list_users
select t.user_id as id, t.generation, ''::text as environment, t.profile as sealed,
       t.user_id, coalesce(u.sealed, null) as user_key
  from vault.users t
  join vault.user_keys u on u.workspace_id = :workspace_id and u.user_id = t.user_id
 where t.workspace_id = :workspace_id
   and t.user_id > :after::text
   and substring(t.profile from 2 for 16) <> :other_than::bytea
 order by t.user_id
 limit :limit;

-- name: replace_users
with mine as (
    select t.user_id, n.after
      from vault.users t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.user_id and n.before = t.profile
     where t.workspace_id = :workspace_id and t.user_id = any(:ids::text[])
     order by t.user_id
       for no key update of t skip locked)
update vault.users t
   set profile = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.user_id = m.user_id
returning t.user_id as id;

-- name: list_secrets
select t.secret_id as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.secrets t
 where t.workspace_id = :workspace_id
   and t.secret_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.secret_id
 limit :limit;

-- name: replace_secrets
with mine as (
    select t.secret_id, n.after
      from vault.secrets t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.secret_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.secret_id = any(:ids::text[])
     order by t.secret_id
       for no key update of t skip locked)
update vault.secrets t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.secret_id = m.secret_id
returning t.secret_id as id;

-- name: list_auth_connections
select t.auth_connection_id as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.auth_connections t
 where t.workspace_id = :workspace_id
   and t.auth_connection_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.auth_connection_id
 limit :limit;

-- name: replace_auth_connections
with mine as (
    select t.auth_connection_id, n.after
      from vault.auth_connections t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.auth_connection_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.auth_connection_id = any(:ids::text[])
     order by t.auth_connection_id
       for no key update of t skip locked)
update vault.auth_connections t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.auth_connection_id = m.auth_connection_id
returning t.auth_connection_id as id;

-- name: list_auth_connection_tokens
select t.auth_connection_id as id, t.token_generation as generation, ''::text as environment, coalesce(t.sealed_token, '') as sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.auth_connection_tokens t
 where t.workspace_id = :workspace_id
   and t.auth_connection_id > :after::text
   and substring(t.sealed_token from 2 for 16) <> :other_than::bytea
 order by t.auth_connection_id
 limit :limit;

-- name: replace_auth_connection_tokens
with mine as (
    select t.auth_connection_id, n.after
      from vault.auth_connection_tokens t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.auth_connection_id and n.before = t.sealed_token
     where t.workspace_id = :workspace_id and t.auth_connection_id = any(:ids::text[])
     order by t.auth_connection_id
       for no key update of t skip locked)
update vault.auth_connection_tokens t
   set sealed_token = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.auth_connection_id = m.auth_connection_id
returning t.auth_connection_id as id;

-- name: list_environment_values
select t.variable_id || '/' || t.environment as id, t.generation, coalesce(t.environment, '') as environment, coalesce(t.sealed, '') as sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.environment_values t
 where t.workspace_id = :workspace_id
   and t.variable_id || '/' || t.environment > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.variable_id || '/' || t.environment
 limit :limit;

-- name: replace_environment_values
with mine as (
    select t.variable_id, t.environment, n.after
      from vault.environment_values t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.variable_id || '/' || t.environment and n.before = t.sealed
     where t.workspace_id = :workspace_id
     order by t.variable_id, t.environment
       for no key update of t skip locked)
update vault.environment_values t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.variable_id = m.variable_id and t.environment = m.environment
returning t.variable_id as id;

-- name: list_integrations
select t.integration as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.integrations t
 where t.workspace_id = :workspace_id
   and t.integration > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.integration
 limit :limit;

-- name: replace_integrations
with mine as (
    select t.integration, n.after
      from vault.integrations t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.integration and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.integration = any(:ids::text[])
     order by t.integration
       for no key update of t skip locked)
update vault.integrations t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.integration = m.integration
returning t.integration as id;

-- name: list_connection_tokens
select t.connection_id as id, t.generation, coalesce(c.environment, '') as environment, t.sealed,
       c.user_id, coalesce(u.sealed, null) as user_key
  from vault.connection_tokens t
  join vault.connections c on c.workspace_id = :workspace_id and c.connection_id = t.connection_id
  join vault.user_keys u on u.workspace_id = :workspace_id and u.user_id = c.user_id
 where t.workspace_id = :workspace_id
   and t.connection_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.connection_id
 limit :limit;

-- name: replace_connection_tokens
with mine as (
    select t.connection_id, n.after
      from vault.connection_tokens t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.connection_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.connection_id = any(:ids::text[])
     order by t.connection_id
       for no key update of t skip locked)
update vault.connection_tokens t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.connection_id = m.connection_id
returning t.connection_id as id;

-- name: list_connect_flows
select t.flow_id as id, t.generation, coalesce(s.environment, '') as environment, coalesce(t.sealed, '') as sealed,
       s.user_id, coalesce(u.sealed, null) as user_key
  from vault.connect_flows t
  join vault.connect_sessions s on s.workspace_id = :workspace_id and s.session_id = t.session_id
  join vault.user_keys u on u.workspace_id = :workspace_id and u.user_id = s.user_id
 where t.workspace_id = :workspace_id
   and t.flow_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.flow_id
 limit :limit;

-- name: replace_connect_flows
with mine as (
    select t.flow_id, n.after
      from vault.connect_flows t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.flow_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.flow_id = any(:ids::text[])
     order by t.flow_id
       for no key update of t skip locked)
update vault.connect_flows t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.flow_id = m.flow_id
returning t.flow_id as id;

-- name: list_revocation_tokens
select t.revocation_id as id, 1::bigint as generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.revocation_tokens t
 where t.workspace_id = :workspace_id
   and t.revocation_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.revocation_id
 limit :limit;

-- name: replace_revocation_tokens
with mine as (
    select t.revocation_id, n.after
      from vault.revocation_tokens t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.revocation_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.revocation_id = any(:ids::text[])
     order by t.revocation_id
       for no key update of t skip locked)
update vault.revocation_tokens t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.revocation_id = m.revocation_id
returning t.revocation_id as id;

-- name: list_refresh_answers
-- The environment is null where the connection is gone: nobody can open those any more.
select t.connection_id || '/' || t.fence::text as id, t.fence as generation,
       case when c.connection_id is not null then c.environment end as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.refresh_answers t
  left join vault.connections c on c.workspace_id = :workspace_id and c.connection_id = t.connection_id
 where t.workspace_id = :workspace_id
   and t.connection_id || '/' || t.fence::text > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.connection_id || '/' || t.fence::text
 limit :limit;

-- name: replace_refresh_answers
with mine as (
    select t.connection_id, t.fence, n.after
      from vault.refresh_answers t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.connection_id || '/' || t.fence::text and n.before = t.sealed
     where t.workspace_id = :workspace_id
     order by t.connection_id, t.fence
       for no key update of t skip locked)
update vault.refresh_answers t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.connection_id = m.connection_id and t.fence = m.fence
returning t.connection_id as id;

-- name: list_event_endpoint_secrets
select t.endpoint_id as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.event_endpoint_secrets t
 where t.workspace_id = :workspace_id
   and t.endpoint_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.endpoint_id
 limit :limit;

-- name: replace_event_endpoint_secrets
with mine as (
    select t.endpoint_id, n.after
      from vault.event_endpoint_secrets t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.endpoint_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.endpoint_id = any(:ids::text[])
     order by t.endpoint_id
       for no key update of t skip locked)
update vault.event_endpoint_secrets t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.endpoint_id = m.endpoint_id
returning t.endpoint_id as id;
