-- What a mint has to know, in few columns. What is the same for all of a batch's mints with one key is
-- looked up once; and what there is of a user's connections is written into three texts, since an
-- array costs whoever sends it, and whoever reads it, by the element.
--
-- As its elders of 0006 and 0009, which the versions before go on calling: it runs as keyturn_mint, and
-- each input row brings the keyed hash of the key that decides.

-- `rights`: the key's scopes, its environments and its end, in JSON. Times are microseconds since 1970.
-- `shape`: a line for each connection that may count in the environment: integration, environment,
-- provider and, where they are known, its scopes in JSON; in the order of `connection_ids`.
-- `lives`: six words for each, in any order: its id, generation and state, `noticed` where it is not
-- long since it was noted that it is in use, when its tokens were issued, and when they end; a word
-- that there is not is `-`, and without a first consent nothing was issued. `token_ids`: two words
-- for each of `tokens`, its connection and its generation.
create function vault.mint_find(hashes bytea[], user_ids text[], environments text[], agent_ids text[])
returns table (
    place bigint, workspace_id text, api_key_id text, hash bytea, rights text, key_unnoticed boolean,
    environment text, generation bigint, profile bytea, user_key bytea,
    key_id bytea, version integer, wrapped bytea, root_key_id text, index_key bytea,
    agent_generation bigint, agent_sealed bytea, has_upstream boolean, now bigint,
    connection_ids text, shape text, lives text, token_ids text, tokens bytea[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with door as materialized (
        select k.workspace_id, k.key_id as api_key_id, k.hash, k.environments,
               jsonb_build_array(k.scopes, k.environments, k.expires_at)::text as rights,
               coalesce(k.last_used_at < now() - interval '1 minute', true) as unnoticed,
               w.key_id, w.version, w.wrapped, w.root_key_id, x.sealed as index_key,
               exists (select from vault.upstreams s
                        where s.workspace_id = k.workspace_id and s.kind = 'elevenlabs') as has_upstream,
               (date_part('epoch', now()) * 1000000)::bigint as now
          from (select distinct h.hash from unnest(hashes) as h(hash)) h
          join vault.api_keys k
            on k.hash = h.hash and 'mint' = any(k.scopes) and (k.expires_at is null or k.expires_at > now())
          join vault.workspace_keys w on w.workspace_id = k.workspace_id and w.state = 'active'
          join vault.index_keys x on x.workspace_id = k.workspace_id
    )
    select n.place, d.workspace_id, d.api_key_id, d.hash, d.rights, d.unnoticed, e.environment,
           u.generation, u.profile, uk.sealed, d.key_id, d.version, d.wrapped, d.root_key_id, d.index_key,
           a.generation, a.sealed, d.has_upstream, d.now,
           coalesce(array_to_string(c.ids, ' '), ''), coalesce(c.shape, ''), coalesce(l.lives, ''),
           coalesce(t.ids, ''), coalesce(t.tokens, '{}')
      from unnest(hashes, user_ids, environments, agent_ids) with ordinality
               as n(hash, user_id, environment, agent_id, place)
      join door d on d.hash = n.hash
      join lateral (
               select case when n.environment <> '' then n.environment
                           when cardinality(d.environments) = 1 then d.environments[1]
                           else 'production' end as environment) e
        on d.environments = '{}' or e.environment = any(d.environments)
      join vault.users u on u.workspace_id = d.workspace_id and u.user_id = n.user_id
      join vault.user_keys uk on uk.workspace_id = d.workspace_id and uk.user_id = n.user_id
      left join vault.agents a on a.workspace_id = d.workspace_id and a.agent_id = n.agent_id
     cross join lateral (
               select array_agg(c.connection_id) as ids,
                      string_agg(concat_ws(' ', c.integration, c.environment, c.provider, to_jsonb(c.scopes)),
                                 E'\n') as shape
                 from vault.connections c
                where c.workspace_id = d.workspace_id and c.user_id = n.user_id
                  and (c.environment = e.environment
                       or (c.environment = 'production'
                           and exists (select from vault.integrations i
                                        where i.workspace_id = d.workspace_id
                                          and i.integration = c.integration and i.share_connections)))) c
     cross join lateral (
               select string_agg(
                          concat_ws(' ', l.connection_id, l.generation, l.state,
                                    case when l.used_at >= now() - interval '15 minutes'
                                              and l.of_user is not null then 'noticed' else '-' end,
                                    coalesce(case when l.consented_at is not null
                                                  then (date_part('epoch', l.issued_at) * 1000000)::bigint::text end, '-'),
                                    coalesce((date_part('epoch', l.access_ends) * 1000000)::bigint::text, '-')),
                          ' ') as lives
                 from vault.connection_lives l
                where l.workspace_id = d.workspace_id and l.connection_id = any(c.ids)) l
     cross join lateral (
               select string_agg(t.connection_id || ' ' || t.generation, ' ') as ids,
                      array_agg(t.sealed) as tokens
                 from vault.connection_tokens t
                where t.workspace_id = d.workspace_id and t.connection_id = any(c.ids)
                  and t.sealed is not null) t;
end
$$;

grant usage, create on schema vault to keyturn_mint;
alter function vault.mint_find(bytea[], text[], text[], text[]) owner to keyturn_mint;
revoke create on schema vault from keyturn_mint;
revoke all on function vault.mint_find(bytea[], text[], text[], text[]) from public;
grant execute on function vault.mint_find(bytea[], text[], text[], text[]) to keyturn_app;
