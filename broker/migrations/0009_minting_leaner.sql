-- Minting by the batch, with less to write: one line in the record for a conversation and all that it
-- was given, one row for all that it holds, and no look at what is in use but where somebody has
-- just seen that this has to be noted.
--
-- Both functions are as their elders of 0006, which the version before goes on calling: they run as
-- keyturn_mint, and each input row brings the keyed hash of the key that decides.

grant insert (workspace_id, user_id, holder, held, held_until) on vault.holds to keyturn_mint;
create policy mint on vault.holds to keyturn_mint using (true) with check (true);
grant insert (connection_ids) on vault.audit_events to keyturn_mint;
grant select (of_user), update (of_user) on vault.connection_lives to keyturn_mint;

-- What a mint has to know, as vault.mint_look tells it. `key_unnoticed`, `unnoticed`: it is some time
-- since it was noted that the key, or a connection, is in use.
create function vault.mint_look_up(hashes bytea[], user_ids text[], environments text[], agent_ids text[])
returns table (
    place bigint, workspace_id text, api_key_id text, hash bytea, scopes text[], key_environments text[],
    key_expires_at timestamptz, environment text, generation bigint, profile bytea, user_key bytea,
    key_id bytea, version integer, wrapped bytea, root_key_id text, index_key bytea,
    agent_generation bigint, agent_sealed bytea, has_upstream boolean, now timestamptz, key_unnoticed boolean,
    connection_ids text[], integrations text[], connection_environments text[], providers text[],
    scope_lists text[], states text[], settled boolean[], generations bigint[], issued timestamptz[],
    ends timestamptz[], token_generations bigint[], tokens bytea[], unnoticed boolean[])
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
    select n.place, k.workspace_id, k.key_id, k.hash, k.scopes, k.environments, k.expires_at, e.environment,
           u.generation, u.profile, uk.sealed, w.key_id, w.version, w.wrapped, w.root_key_id, x.sealed,
           a.generation, a.sealed,
           exists (select from vault.upstreams s
                    where s.workspace_id = k.workspace_id and s.kind = 'elevenlabs'),
           now(), coalesce(k.last_used_at < now() - interval '1 minute', true),
           coalesce(c.connection_ids, '{}'), coalesce(c.integrations, '{}'), coalesce(c.environments, '{}'),
           coalesce(c.providers, '{}'), coalesce(c.scope_lists, '{}'), coalesce(c.states, '{}'), coalesce(c.settled, '{}'),
           coalesce(c.generations, '{}'), coalesce(c.issued, '{}'), coalesce(c.ends, '{}'),
           coalesce(c.token_generations, '{}'), coalesce(c.tokens, '{}'), coalesce(c.unnoticed, '{}')
      from unnest(hashes, user_ids, environments, agent_ids) with ordinality
               as n(hash, user_id, environment, agent_id, place)
      join vault.api_keys k
        on k.hash = n.hash and 'mint' = any(k.scopes) and (k.expires_at is null or k.expires_at > now())
      join lateral (
               select case when n.environment <> '' then n.environment
                           when cardinality(k.environments) = 1 then k.environments[1]
                           else 'production' end as environment) e
        on k.environments = '{}' or e.environment = any(k.environments)
      join vault.users u on u.workspace_id = k.workspace_id and u.user_id = n.user_id
      join vault.user_keys uk on uk.workspace_id = k.workspace_id and uk.user_id = n.user_id
      join vault.workspace_keys w on w.workspace_id = k.workspace_id and w.state = 'active'
      join vault.index_keys x on x.workspace_id = k.workspace_id
      left join vault.agents a on a.workspace_id = k.workspace_id and a.agent_id = n.agent_id
      left join lateral (
               select array_agg(c.connection_id) as connection_ids, array_agg(c.integration) as integrations,
                      array_agg(c.environment) as environments, array_agg(c.provider) as providers,
                      array_agg(to_jsonb(c.scopes)::text) as scope_lists,
                      array_agg(l.state) as states,
                      array_agg(l.state = 'active' and l.issued_at is not null
                                and l.consented_at is not null and t.sealed is not null) as settled,
                      array_agg(l.generation) as generations, array_agg(l.issued_at) as issued,
                      array_agg(l.access_ends) as ends, array_agg(t.generation) as token_generations,
                      array_agg(t.sealed) as tokens,
                      array_agg(coalesce(l.used_at < now() - interval '15 minutes', true)
                                or l.of_user is null) as unnoticed
                 from vault.connections c
                 join vault.connection_lives l
                   on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
                 left join vault.connection_tokens t
                   on t.workspace_id = c.workspace_id and t.connection_id = c.connection_id
                where c.workspace_id = k.workspace_id and c.user_id = n.user_id
                  and (c.environment = e.environment
                       or (c.environment = 'production'
                           and exists (select from vault.integrations i
                                        where i.workspace_id = k.workspace_id
                                          and i.integration = c.integration and i.share_connections)))) c
        on true;
end
$$;

-- Conversations with their lines in the record and what they hold. Each is written only if what was
-- looked at still holds: the key lives, the user is there, and every one of its tokens (their ids and
-- generations come as lists with spaces) is the present one, settled, before its end, and of this
-- user. Which were written is answered. `looking`: it is given no tokens. `unnoticed`: whoever looked
-- saw that somebody's use has to be noted, which is done apart.
create function vault.mint_write_down(
    hashes bytea[], workspace_ids text[], conversation_ids text[], event_ids text[], user_ids text[],
    user_refs text[], agent_ids text[], places text[], runtimes text[], channels text[],
    deliveries text[], branch_ids text[], reached text[], kept bytea[], armed boolean[],
    bearer_kinds text[], bearer_hashes bytea[], ticket_hashes bytea[], start_within integer[],
    lasts integer[], promises integer[], request_ids text[], looking boolean[], token_ids text[],
    token_generations text[], unnoticed boolean[])
returns table (conversation_id text, created_at timestamptz, start_by timestamptz, expires_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    return query
    with mint as materialized (
        select n.i, n.token_ids, n.held, k.key_id
          from (select i, string_to_array(token_ids[i], ' ') as token_ids,
                       jsonb_object(string_to_array(token_ids[i], ' '),
                                    string_to_array(token_generations[i], ' ')) as held
                  from generate_subscripts(hashes, 1) i
                offset 0) n -- each list is taken apart once, and not wherever it is named
          join vault.api_keys k
            on k.hash = hashes[n.i] and k.workspace_id = workspace_ids[n.i] and 'mint' = any(k.scopes)
           and (k.expires_at is null or k.expires_at > now())
           and (k.environments = '{}' or places[n.i] = any(k.environments))
          join vault.users u on u.workspace_id = workspace_ids[n.i] and u.user_id = user_ids[n.i]
         where cardinality(n.token_ids) =
               (select count(*)
                  from vault.connection_lives l
                 where l.workspace_id = workspace_ids[n.i] and l.connection_id = any(n.token_ids)
                   and coalesce(l.of_user,
                                (select c.user_id
                                   from vault.connections c
                                  where c.workspace_id = l.workspace_id
                                    and c.connection_id = l.connection_id)) = user_ids[n.i]
                   and l.state = 'active' and l.generation = (n.held ->> l.connection_id)::bigint
                   and (l.access_ends is null or l.access_ends > now()))
    ), noted as (
        insert into vault.audit_events
               (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
                environment, outcome, request_id, connection_ids)
        select workspace_ids[m.i], event_ids[m.i], 'key', m.key_id, 'conversation.mint', 'conversation',
               conversation_ids[m.i], user_refs[m.i], places[m.i], 'ok', request_ids[m.i],
               case when looking[m.i] then '{}' else m.token_ids end
          from mint m
    ), held as (
        insert into vault.holds (workspace_id, user_id, holder, held, held_until)
        select workspace_ids[m.i], user_ids[m.i], conversation_ids[m.i], m.held,
               now() + lasts[m.i] * interval '1 second'
          from mint m
         where not looking[m.i] and m.token_ids <> '{}'
    )
    insert into vault.conversations as made
           (workspace_id, conversation_id, agent_id, user_id, environment, runtime, channel, delivery,
            branch_id, key_id, connection_ids, kept, armed, bearer_kind, bearer_hash, ticket_hash,
            start_by, expires_at)
    select workspace_ids[m.i], conversation_ids[m.i], agent_ids[m.i], user_ids[m.i], places[m.i],
           runtimes[m.i], channels[m.i], deliveries[m.i], branch_ids[m.i], m.key_id,
           string_to_array(reached[m.i], ' '), kept[m.i], armed[m.i], bearer_kinds[m.i],
           bearer_hashes[m.i], ticket_hashes[m.i], now() + start_within[m.i] * interval '1 second',
           now() + lasts[m.i] * interval '1 second'
      from mint m
    returning made.conversation_id, made.created_at, made.start_by, made.expires_at;

    if true = any(unnoticed) then
        -- What is just being refreshed is noted another time: nobody waits for that here. Each life is
        -- found by its whole key, whatever is known of how many there are.
        with unused as (
            select l.workspace_id, l.connection_id, user_ids[n.i] as user_id, promises[n.i] as promised
              from generate_subscripts(hashes, 1) as n(i)
              join vault.conversations m
                on m.workspace_id = workspace_ids[n.i] and m.conversation_id = conversation_ids[n.i]
             cross join lateral (
                       select o.workspace_id, o.connection_id
                         from vault.connection_lives o
                        where o.workspace_id = workspace_ids[n.i]
                          and o.connection_id = any(string_to_array(token_ids[n.i], ' '))
                          and (coalesce(o.used_at < now() - interval '15 minutes', true)
                               or o.of_user is null)
                          for no key update of o skip locked) l
             where unnoticed[n.i]
        ), noted as (
            update vault.connection_lives l
               set used_at = now(), promised = u.promised, of_user = u.user_id,
                   due_at = case when coalesce(l.used_at < now() - interval '25 hours', true)
                                 then now() else l.due_at end
              from unused u
             where l.workspace_id = u.workspace_id and l.connection_id = u.connection_id
        ), keys as (
            select k.workspace_id, k.key_id
              from generate_subscripts(hashes, 1) as n(i)
              join vault.conversations m
                on m.workspace_id = workspace_ids[n.i] and m.conversation_id = conversation_ids[n.i]
              join vault.api_keys k on k.hash = hashes[n.i] and k.workspace_id = m.workspace_id
             where unnoticed[n.i] and coalesce(k.last_used_at < now() - interval '1 minute', true)
               for no key update of k skip locked
        )
        update vault.api_keys k
           set last_used_at = now()
          from keys
         where k.workspace_id = keys.workspace_id and k.key_id = keys.key_id;
    end if;
end
$$;

grant usage, create on schema vault to keyturn_mint;
alter function vault.mint_look_up(bytea[], text[], text[], text[]) owner to keyturn_mint;
alter function vault.mint_write_down(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], boolean[]) owner to keyturn_mint;
revoke create on schema vault from keyturn_mint;
revoke all on function vault.mint_look_up(bytea[], text[], text[], text[]) from public;
grant execute on function vault.mint_look_up(bytea[], text[], text[], text[]) to keyturn_app;
revoke all on function vault.mint_write_down(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], boolean[]) from public;
grant execute on function vault.mint_write_down(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], boolean[]) to keyturn_app;
