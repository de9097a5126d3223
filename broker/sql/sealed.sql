-- What the broker seals: listed with what its context is made of, and replaced if it is still what
-- was listed. ``other_than`` is a key's id: what is sealed under that key is left out.

-- name: list_agents
select t.agent_id as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.agents t
 where t.workspace_id = :workspace_id
   and t.agent_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.agent_id
 limit :limit;

-- name: replace_agents
with mine as (
    select t.agent_id, n.after
      from vault.agents t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.agent_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.agent_id = any(:ids::text[])
     order by t.agent_id
       for no key update of t skip locked)
update vault.agents t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.agent_id = m.agent_id
returning t.agent_id as id;

-- name: list_upstreams
-- The address is part of the context, and so of the place.
select t.kind || ' ' || t.base_url as id, t.generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.upstreams t
 where t.workspace_id = :workspace_id
   and t.kind || ' ' || t.base_url > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.kind || ' ' || t.base_url
 limit :limit;

-- name: replace_upstreams
with mine as (
    select t.kind, n.after
      from vault.upstreams t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.kind || ' ' || t.base_url and n.before = t.sealed
     where t.workspace_id = :workspace_id
     order by t.kind
       for no key update of t skip locked)
update vault.upstreams t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.kind = m.kind
returning t.kind as id;

-- name: list_signing_keys
select t.key_id as id, 1::bigint as generation, ''::text as environment, t.sealed,
       ''::text as user_id, null::bytea as user_key
  from vault.signing_keys t
 where t.workspace_id = :workspace_id
   and t.key_id > :after::text
   and substring(t.sealed from 2 for 16) <> :other_than::bytea
 order by t.key_id
 limit :limit;

-- name: replace_signing_keys
with mine as (
    select t.key_id, n.after
      from vault.signing_keys t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.key_id and n.before = t.sealed
     where t.workspace_id = :workspace_id and t.key_id = any(:ids::text[])
     order by t.key_id
       for no key update of t skip locked)
update vault.signing_keys t
   set sealed = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.key_id = m.key_id
returning t.key_id as id;

-- name: list_conversations
-- Sealed for their users, so with their users' keys.
select t.conversation_id as id, 1::bigint as generation, ''::text as environment, t.kept as sealed,
       t.user_id, coalesce(u.sealed, null) as user_key
  from vault.conversations t
  join vault.user_keys u on u.workspace_id = :workspace_id and u.user_id = t.user_id
 where t.workspace_id = :workspace_id
   and t.conversation_id > :after::text
   and substring(t.kept from 2 for 16) <> :other_than::bytea
 order by t.conversation_id
 limit :limit;

-- name: replace_conversations
with mine as (
    select t.conversation_id, n.after
      from vault.conversations t
      join unnest(:ids::text[], :before::bytea[], :after::bytea[]) as n (id, before, after)
        on n.id = t.conversation_id and n.before = t.kept
     where t.workspace_id = :workspace_id and t.conversation_id = any(:ids::text[])
     order by t.conversation_id
       for no key update of t skip locked)
update vault.conversations t
   set kept = m.after
  from mine m
 where t.workspace_id = :workspace_id and t.conversation_id = m.conversation_id
returning t.conversation_id as id;
