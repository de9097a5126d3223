-- Minting by the batch: many workspaces' mints in one statement and one commit.
--
-- Both functions run as keyturn_mint, which owns nothing else, is bound by row-level security, and
-- may touch exactly these columns. Whose row is meant is decided by the living key alone: each input
-- row brings the keyed hash of an API key with the scope `mint`, everything is joined on that key's
-- workspace, and a revoked key finds nothing. No input row makes them raise: what does not fit is
-- left out of the answer, and whoever asked goes the long way.

-- What the first one reads.
grant select (workspace_id, key_id, hash, scopes, environments, expires_at, last_used_at),
      update (last_used_at) on vault.api_keys to keyturn_mint;
grant select (workspace_id, user_id, generation, profile) on vault.users to keyturn_mint;
grant select (workspace_id, user_id, sealed) on vault.user_keys to keyturn_mint;
grant select (workspace_id, key_id, version, state, wrapped, root_key_id) on vault.workspace_keys to keyturn_mint;
grant select (workspace_id, sealed) on vault.index_keys to keyturn_mint;
grant select (workspace_id, agent_id, generation, sealed) on vault.agents to keyturn_mint;
grant select (workspace_id, kind) on vault.upstreams to keyturn_mint;
grant select (workspace_id, integration, share_connections) on vault.integrations to keyturn_mint;
grant select (workspace_id, connection_id, user_id, integration, environment, provider, scopes)
    on vault.connections to keyturn_mint;
grant select (workspace_id, connection_id, state, generation, issued_at, consented_at, access_ends, used_at,
              due_at, user_ref),
      update (used_at, promised, due_at) on vault.connection_lives to keyturn_mint;
grant select (workspace_id, connection_id, generation, sealed) on vault.connection_tokens to keyturn_mint;
-- What the second one writes.
grant select (workspace_id, conversation_id, created_at, start_by, expires_at),
      insert (workspace_id, conversation_id, agent_id, user_id, environment, runtime, channel, delivery,
              branch_id, key_id, connection_ids, kept, armed, bearer_kind, bearer_hash, ticket_hash,
              start_by, expires_at) on vault.conversations to keyturn_mint;
grant insert (workspace_id, connection_id, holder, generation, held_until) on vault.connection_holds to keyturn_mint;
grant insert (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
              environment, outcome, request_id) on vault.audit_events to keyturn_mint;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'api_keys', 'users', 'user_keys', 'workspace_keys', 'index_keys', 'agents', 'upstreams',
        'integrations', 'connections', 'connection_lives', 'connection_tokens', 'conversations',
        'connection_holds', 'audit_events'
    ] loop
        execute format('create policy mint on vault.%I to keyturn_mint using (true) with check (true)', workspace_table);
    end loop;
end
$$;

-- What a mint has to know: one row for each input row whose key lives, may mint, and reaches the
-- environment, and whose user there is. An empty environment is the key's only one, or production.
-- The connections stand in arrays of one order; `settled`: good as it is, and nothing is under way.
create function vault.mint_look(hashes bytea[], user_ids text[], environments text[], agent_ids text[])
returns table (
    place bigint, workspace_id text, api_key_id text, hash bytea, scopes text[], key_environments text[],
    key_expires_at timestamptz, environment text, generation bigint, profile bytea, user_key bytea,
    key_id bytea, version integer, wrapped bytea, root_key_id text, index_key bytea,
    agent_generation bigint, agent_sealed bytea, has_upstream boolean, now timestamptz,
    connection_ids text[], integrations text[], connection_environments text[], providers text[],
    scope_lists text[], states text[], settled boolean[], generations bigint[], issued timestamptz[], ends timestamptz[],
    token_generations bigint[], tokens bytea[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- Everything is found by its key. Planning anew for each batch costs more than running, and a plan
-- that was made while the tables were small must not read them whole when they are large.
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
           now(),
           coalesce(c.connection_ids, '{}'), coalesce(c.integrations, '{}'), coalesce(c.environments, '{}'),
           coalesce(c.providers, '{}'), coalesce(c.scope_lists, '{}'), coalesce(c.states, '{}'), coalesce(c.settled, '{}'),
           coalesce(c.generations, '{}'), coalesce(c.issued, '{}'), coalesce(c.ends, '{}'),
           coalesce(c.token_generations, '{}'), coalesce(c.tokens, '{}')
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
                      array_agg(t.sealed) as tokens
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

-- Conversations with their lines in the record, their holds, and the note that keys and connections
-- are in use. Each is written only if what was looked at still holds: the key lives, the user is
-- there, and every one of its tokens (their ids, generations and events come as lists with spaces)
-- is the present one, settled, before its end, and of this user. Which were written is answered.
create function vault.mint_write(
    hashes bytea[], workspace_ids text[], conversation_ids text[], event_ids text[], user_ids text[],
    user_refs text[], agent_ids text[], environments text[], runtimes text[], channels text[],
    deliveries text[], branch_ids text[], reached text[], kept bytea[], armed boolean[],
    bearer_kinds text[], bearer_hashes bytea[], ticket_hashes bytea[], start_within integer[],
    lasts integer[], promised integer[], request_ids text[], looking boolean[], token_ids text[],
    token_generations text[], token_events text[])
returns table (conversation_id text, created_at timestamptz, start_by timestamptz, expires_at timestamptz)
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
    with mint as materialized (
        select n.*, k.key_id, coalesce(k.last_used_at < now() - interval '1 minute', true) as unnoticed,
               f.connection_ids, f.generations, f.events, f.places, f.user_refs, f.unused, f.long_unused
          from unnest(hashes, workspace_ids, conversation_ids, event_ids, user_ids, user_refs, agent_ids,
                      environments, runtimes, channels, deliveries, branch_ids, reached, kept, armed,
                      bearer_kinds, bearer_hashes, ticket_hashes, start_within, lasts, promised,
                      request_ids, looking, token_ids, token_generations, token_events)
                   as n(hash, workspace_id, conversation_id, event_id, user_id, user_ref, agent_id,
                        environment, runtime, channel, delivery, branch_id, reached, kept, armed,
                        bearer_kind, bearer_hash, ticket_hash, start_within, lasts, promised,
                        request_id, looking, token_ids, token_generations, token_events)
          join vault.api_keys k
            on k.hash = n.hash and k.workspace_id = n.workspace_id and 'mint' = any(k.scopes)
           and (k.expires_at is null or k.expires_at > now())
           and (k.environments = '{}' or n.environment = any(k.environments))
          join vault.users u on u.workspace_id = n.workspace_id and u.user_id = n.user_id
          cross join lateral (
                   select coalesce(array_agg(t.id), '{}') as connection_ids,
                          array_agg(t.generation::bigint) as generations, array_agg(t.event) as events,
                          array_agg(c.environment) as places, array_agg(l.user_ref) as user_refs,
                          array_agg(coalesce(l.used_at < now() - interval '15 minutes', true)) as unused,
                          array_agg(coalesce(l.used_at < now() - interval '25 hours', true)) as long_unused
                     from unnest(string_to_array(n.token_ids, ' '), string_to_array(n.token_generations, ' '),
                                 string_to_array(n.token_events, ' ')) as t(id, generation, event)
                     join vault.connections c
                       on c.workspace_id = n.workspace_id and c.connection_id = t.id
                      and c.user_id = n.user_id
                     join vault.connection_lives l
                       on l.workspace_id = n.workspace_id and l.connection_id = t.id
                      and l.state = 'active' and l.generation = t.generation::bigint
                      and (l.access_ends is null or l.access_ends > now())) f
         where cardinality(f.connection_ids) = cardinality(string_to_array(n.token_ids, ' '))
    ), token as materialized (
        select m.workspace_id, m.conversation_id, m.request_id, m.looking, m.promised, m.lasts,
               t.connection_id, t.generation, t.event_id, t.environment, t.user_ref, t.unused, t.long_unused
          from mint m
         cross join lateral unnest(m.connection_ids, m.generations, m.events, m.places, m.user_refs,
                                   m.unused, m.long_unused)
                            as t(connection_id, generation, event_id, environment, user_ref, unused, long_unused)
    ), noted as (
        insert into vault.audit_events
               (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
                environment, outcome, request_id)
        select m.workspace_id, m.event_id, 'key', m.key_id, 'conversation.mint', 'conversation',
               m.conversation_id, m.user_ref, m.environment, 'ok', m.request_id
          from mint m
        union all
        select t.workspace_id, t.event_id, 'grant', t.conversation_id, 'connection.token', 'connection',
               t.connection_id, t.user_ref, t.environment, 'ok', t.request_id
          from token t
         where not t.looking
    ), held as (
        insert into vault.connection_holds (workspace_id, connection_id, holder, generation, held_until)
        select t.workspace_id, t.connection_id, t.conversation_id, t.generation,
               now() + t.lasts * interval '1 second'
          from token t
         where not t.looking
    ), free as (
        -- Who is just being refreshed is noted another time: nobody waits for that here.
        select l.workspace_id, l.connection_id, t.promised, t.long_unused
          from token t
          join vault.connection_lives l
            on l.workspace_id = t.workspace_id and l.connection_id = t.connection_id
         where t.unused
           for no key update of l skip locked
    ), touched as (
        update vault.connection_lives l
           set used_at = now(), promised = f.promised,
               due_at = case when f.long_unused then now() else l.due_at end
          from free f
         where l.workspace_id = f.workspace_id and l.connection_id = f.connection_id
    ), keys as (
        select k.workspace_id, k.key_id
          from mint m
          join vault.api_keys k on k.workspace_id = m.workspace_id and k.key_id = m.key_id
         where m.unnoticed
           for no key update of k skip locked
    ), used as (
        update vault.api_keys k
           set last_used_at = now()
          from keys
         where k.workspace_id = keys.workspace_id and k.key_id = keys.key_id
    )
    insert into vault.conversations as made
           (workspace_id, conversation_id, agent_id, user_id, environment, runtime, channel, delivery,
            branch_id, key_id, connection_ids, kept, armed, bearer_kind, bearer_hash, ticket_hash,
            start_by, expires_at)
    select m.workspace_id, m.conversation_id, m.agent_id, m.user_id, m.environment, m.runtime, m.channel,
           m.delivery, m.branch_id, m.key_id, string_to_array(m.reached, ' '), m.kept, m.armed,
           m.bearer_kind, m.bearer_hash, m.ticket_hash, now() + m.start_within * interval '1 second',
           now() + m.lasts * interval '1 second'
      from mint m
    returning made.conversation_id, made.created_at, made.start_by, made.expires_at;
end
$$;

grant usage, create on schema vault to keyturn_mint;
alter function vault.mint_look(bytea[], text[], text[], text[]) owner to keyturn_mint;
alter function vault.mint_write(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], text[]) owner to keyturn_mint;
revoke create on schema vault from keyturn_mint;
revoke all on function vault.mint_look(bytea[], text[], text[], text[]) from public;
grant execute on function vault.mint_look(bytea[], text[], text[], text[]) to keyturn_app;
revoke all on function vault.mint_write(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], text[]) from public;
grant execute on function vault.mint_write(
    bytea[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[], text[],
    bytea[], boolean[], text[], bytea[], bytea[], integer[], integer[], integer[], text[], boolean[], text[],
    text[], text[]) to keyturn_app;
