-- Handing out tokens by the batch, with less to begin with: that something is in use is noted once in
-- a while, and what notes it is planned and started only then, not with every batch.
--
-- As its elder of 0010, which the versions before go on calling: it runs as keyturn_mint, each input row
-- brings the keyed hash of the key that decides, and what does not fit is left out of the answer.

-- Note that these connections and keys are in use, where that was not done lately. For the function
-- below alone, as whose role it runs, and with what that sets; `strict`: of nothing nothing is noted.
create function vault.token_in_use(
    workspace_ids text[], connection_ids text[], key_ids text[], min_ttls integer[])
returns timestamptz
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- Who is just being refreshed is noted another time: nobody waits for that here.
    with free as (
        select l.workspace_id, l.connection_id, n.min_ttl
          from unnest(workspace_ids, connection_ids, min_ttls) as n(workspace_id, connection_id, min_ttl)
          join vault.connection_lives l
            on l.workspace_id = n.workspace_id and l.connection_id = n.connection_id
         where coalesce(l.used_at < now() - interval '15 minutes', true)
           for no key update of l skip locked
    )
    update vault.connection_lives l
       set used_at = now(), promised = f.min_ttl,
           due_at = case when coalesce(l.used_at < now() - interval '25 hours', true)
                         then now() else l.due_at end
      from free f
     where l.workspace_id = f.workspace_id and l.connection_id = f.connection_id;
    with free as (
        select k.workspace_id, k.key_id
          from unnest(workspace_ids, key_ids) as n(workspace_id, key_id)
          join vault.api_keys k on k.workspace_id = n.workspace_id and k.key_id = n.key_id
         where coalesce(k.last_used_at < now() - interval '1 minute', true)
           for no key update of k skip locked
    )
    update vault.api_keys k
       set last_used_at = now()
      from free f
     where k.workspace_id = f.workspace_id and k.key_id = f.key_id;
    return now();
end
$$;

-- One row for each input row whose key lives and may, and whose connection is settled: active, with
-- nothing under way, and with a token that lasts. Its line in the record is written with it, and the
-- note that key and connection are in use.
create function vault.token_hand_out(
    hashes bytea[], connection_ids text[], event_ids text[], min_ttls integer[], request_ids text[])
returns table (
    place bigint, workspace_id text, api_key_id text, hash bytea, scopes text[], key_environments text[],
    key_expires_at timestamptz, user_id text, environment text, asked_scopes text[],
    given_scopes text[], generation bigint, access_ends timestamptz, token_generation bigint,
    sealed bytea, user_key bytea, now timestamptz)
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
    with found as materialized (
        select n.place, n.event_id, n.min_ttl, n.request_id, k.workspace_id, k.key_id, k.hash, k.scopes,
               k.environments as key_environments, k.expires_at, c.connection_id, c.user_id,
               c.environment, c.asked_scopes, c.scopes as given_scopes, l.generation, l.access_ends,
               l.user_ref, t.generation as token_generation, t.sealed, u.sealed as user_key,
               coalesce(k.last_used_at < now() - interval '1 minute'
                        or l.used_at < now() - interval '15 minutes', true) as unnoticed
          from unnest(hashes, connection_ids, event_ids, min_ttls, request_ids) with ordinality
                   as n(hash, connection_id, event_id, min_ttl, request_id, place)
          join vault.api_keys k
            on k.hash = n.hash and 'tokens:read' = any(k.scopes)
           and (k.expires_at is null or k.expires_at > now())
          join vault.connections c
            on c.workspace_id = k.workspace_id and c.connection_id = n.connection_id
           and (k.environments = '{}' or c.environment = any(k.environments))
          join vault.connection_lives l
            on l.workspace_id = k.workspace_id and l.connection_id = n.connection_id
           and l.state = 'active' and l.issued_at is not null and l.consented_at is not null
           and (l.access_ends is null
                or l.access_ends > now() + least(n.min_ttl * interval '1 second',
                                                 (l.access_ends - l.issued_at) / 2))
          join vault.connection_tokens t
            on t.workspace_id = k.workspace_id and t.connection_id = n.connection_id
           and t.sealed is not null
          join vault.user_keys u on u.workspace_id = k.workspace_id and u.user_id = c.user_id
    ), noted as (
        insert into vault.audit_events
               (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
                environment, outcome, request_id)
        select f.workspace_id, f.event_id, 'key', f.key_id, 'connection.token', 'connection',
               f.connection_id, f.user_ref, f.environment, 'ok', f.request_id
          from found f
    )
    select f.place, f.workspace_id, f.key_id, f.hash, f.scopes, f.key_environments, f.expires_at,
           f.user_id, f.environment, f.asked_scopes, f.given_scopes, f.generation, f.access_ends,
           f.token_generation, f.sealed, f.user_key,
           -- Asked once for all rows, and called only if one of them is to be noted.
           coalesce((select vault.token_in_use(array_agg(u.workspace_id), array_agg(u.connection_id),
                                               array_agg(u.key_id), array_agg(u.min_ttl))
                       from found u
                      where u.unnoticed), now())
      from found f;
end
$$;

grant usage, create on schema vault to keyturn_mint;
alter function vault.token_in_use(text[], text[], text[], integer[]) owner to keyturn_mint;
alter function vault.token_hand_out(bytea[], text[], text[], integer[], text[]) owner to keyturn_mint;
revoke create on schema vault from keyturn_mint;
revoke all on function vault.token_in_use(text[], text[], text[], integer[]) from public;
revoke all on function vault.token_hand_out(bytea[], text[], text[], integer[], text[]) from public;
grant execute on function vault.token_hand_out(bytea[], text[], text[], integer[], text[]) to keyturn_app;
