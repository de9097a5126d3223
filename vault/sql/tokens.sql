-- Handing tokens out.

-- name: read
-- One statement for all that is asked for. Its lines in the record are written where the token is
-- surely good as it is; for others the caller decides first, and asks once more. Who only looks is
-- given nothing, and leaves no line; nor does whoever tells of it in a line of his own.
with asked as (
    select n.connection_id, n.event_id
      from unnest(:connection_ids::text[], :event_ids::text[]) as n(connection_id, event_id)
), found as (
    select c.connection_id, c.user_id, c.integration, c.environment, c.provider, c.refresh_by,
           c.asked_scopes, c.scopes, l.state, l.generation, l.lease_generation, l.lease_until,
           l.doubt_since, l.suspect_since, l.verdict, l.failures, l.last_failure, l.next_try_at,
           l.issued_at, l.consented_at, l.access_ends, l.idle_ends, l.consent_ends, l.renewable,
           l.user_ref, t.generation as tokens_generation, t.sealed as sealed_tokens, k.sealed as user_key,
           a.event_id,
           greatest(
               (select max(h.held_until)
                  from vault.holds h
                 where h.workspace_id = :workspace_id and h.user_id = c.user_id
                   and h.held ->> c.connection_id = l.generation::text and h.holder <> :holder
                   and h.held_until > now()),
               (select max(h.held_until)
                  from vault.connection_holds h
                 where h.workspace_id = :workspace_id and h.connection_id = c.connection_id
                   and h.generation = l.generation and h.holder <> :holder
                   and h.held_until > now())) as others_hold_until,
           (l.state <> 'pending' and t.sealed is not null and not :rejected::boolean
            and (:any_that_lives::boolean or l.state in ('active', 'backoff'))
            and (l.access_ends is null
                 or l.access_ends > now() + case
                        when :any_that_lives::boolean then interval '0'
                        else least(:min_ttl::interval, (l.access_ends - l.issued_at) / 2) end)) as sure
      from asked a
      join vault.connections c
        on c.workspace_id = :workspace_id and c.connection_id = a.connection_id
      join vault.connection_lives l
        on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
      join vault.user_keys k on k.workspace_id = c.workspace_id and k.user_id = c.user_id
      left join vault.connection_tokens t
        on t.workspace_id = c.workspace_id and t.connection_id = c.connection_id
     where c.workspace_id = :workspace_id
       and (:environments::text[] = '{}' or c.environment = any(:environments::text[]))
), noted as (
    insert into vault.audit_events
           (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
            environment, outcome, request_id)
    select :workspace_id, f.event_id, :actor_kind, :actor_id, 'connection.token', 'connection',
           f.connection_id, f.user_ref, f.environment, 'ok', :request_id
      from found f
     where f.sure and :telling::boolean
), held as (
    insert into vault.holds as h (workspace_id, user_id, holder, held, held_until)
    select :workspace_id, f.user_id, :holder, jsonb_object_agg(f.connection_id, f.generation::text),
           :hold_until::timestamptz
      from found f
     where f.sure and :hold_until::timestamptz is not null
     group by f.user_id
    on conflict (workspace_id, user_id, holder) do update
       set held = h.held || excluded.held, held_until = excluded.held_until
), touched as (
    update vault.connection_lives l
       set used_at = now(), promised = :promised,
           of_user = coalesce(l.of_user, (select c.user_id
                                            from vault.connections c
                                           where c.workspace_id = :workspace_id
                                             and c.connection_id = l.connection_id)),
           due_at = case when l.used_at is null or l.used_at < now() - interval '25 hours'
                         then now() else l.due_at end
     where l.workspace_id = :workspace_id and l.connection_id = any(:connection_ids::text[])
       and l.state <> 'pending'
       and (l.used_at is null or l.used_at < now() - interval '15 minutes' or l.of_user is null)
)
select f.connection_id, f.user_id, f.integration, f.environment, f.provider, f.refresh_by,
       f.asked_scopes, f.scopes, f.state, f.generation, f.lease_generation, f.lease_until,
       f.doubt_since, f.suspect_since, f.verdict, f.failures, f.last_failure, f.next_try_at,
       f.issued_at, f.consented_at, f.access_ends, f.idle_ends, f.consent_ends, f.renewable,
       f.tokens_generation, f.sealed_tokens, f.user_key, f.sure, now() as now,
       f.others_hold_until,
       coalesce((select e.standing
                   from vault.token_endpoints e
                  where e.workspace_id = :workspace_id and e.integration = f.integration
                    and e.environment = f.environment), 'open') as standing
  from found f;
