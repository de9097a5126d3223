-- name: in_use
-- All that a request may need: what the connection is made of, and the token that is at hand.
select a.generation, a.sealed, a.allowed_hosts, a.status, a.status_detail,
       t.sealed_token, coalesce(t.token_generation, 0) as token_generation,
       case when t.expires_at > now() then extract(epoch from t.expires_at - now())::float8 else 0 end as seconds_left,
       coalesce(t.refresh_at > now(), false) as fresh,
       coalesce(t.lease_until > now(), false) as leased,
       case when t.next_try_at > now() then ceil(extract(epoch from t.next_try_at - now()))::int else 0 end as pause_left,
       t.last_failure, now() as now
  from vault.auth_connections a
  left join vault.auth_connection_tokens t
    on t.workspace_id = a.workspace_id and t.auth_connection_id = a.auth_connection_id
   and t.config_generation = a.generation
 where a.workspace_id = :workspace_id and a.auth_connection_id = :auth_connection_id;

-- name: claim
-- The right to make the next call, for a while. Nobody has it if the token is fresh, if somebody
-- else has it, if the last failure is too recent, or if the configuration has moved on.
insert into vault.auth_connection_tokens as t
       (workspace_id, auth_connection_id, config_generation, lease_owner, lease_at, lease_until, fence)
select a.workspace_id, a.auth_connection_id, a.generation, :owner::text,
       now(), now() + :lease::interval, 1
  from vault.auth_connections a
 where a.workspace_id = :workspace_id and a.auth_connection_id = :auth_connection_id
   and a.generation = :config_generation::bigint
on conflict (workspace_id, auth_connection_id) do update
   set config_generation = excluded.config_generation,
       sealed_token = case when t.config_generation = excluded.config_generation then t.sealed_token end,
       refresh_at = case when t.config_generation = excluded.config_generation then t.refresh_at end,
       expires_at = case when t.config_generation = excluded.config_generation then t.expires_at end,
       attempts = case when t.config_generation = excluded.config_generation then t.attempts else 0 end,
       last_failure = case when t.config_generation = excluded.config_generation then t.last_failure end,
       next_try_at = null,
       after_rejection = t.after_rejection and t.sealed_token is null and t.config_generation = excluded.config_generation,
       lease_owner = excluded.lease_owner,
       lease_at = excluded.lease_at,
       lease_until = excluded.lease_until,
       fence = t.fence + 1
 where t.config_generation < excluded.config_generation
    or (t.config_generation = excluded.config_generation
        and (t.refresh_at is null or t.refresh_at <= now())
        and (t.next_try_at is null or t.next_try_at <= now())
        -- A claim of our own whose commit we did not hear of is ours still.
        and (t.lease_until is null or t.lease_until <= now() or t.lease_owner = excluded.lease_owner))
returning t.fence, t.attempts, t.lease_at;

-- name: save
-- Kept only by the holder of the newest lease, and only for the configuration that fetched it.
update vault.auth_connection_tokens
   set sealed_token = :sealed_token, token_generation = fence, obtained_at = lease_at,
       refresh_at = lease_at + :refresh_after::interval, expires_at = lease_at + :lifetime::interval,
       lease_owner = null, lease_until = null, attempts = 0, last_failure = null, next_try_at = null
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
   and fence = :fence and config_generation = :config_generation
   and exists (select from vault.auth_connections a
                where a.workspace_id = :workspace_id and a.auth_connection_id = :auth_connection_id
                  and a.generation = :config_generation)
returning token_generation as generation;

-- name: fail
update vault.auth_connection_tokens
   set lease_owner = null, lease_until = null, attempts = attempts + 1,
       last_failure = :outcome, next_try_at = now() + :pause::interval
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
   and fence = :fence and config_generation = :config_generation
   and exists (select from vault.auth_connections a
                where a.workspace_id = :workspace_id and a.auth_connection_id = :auth_connection_id
                  and a.generation = :config_generation)
returning token_generation as generation;

-- name: release
update vault.auth_connection_tokens
   set lease_owner = null, lease_until = null
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id and fence = :fence;

-- name: drop
-- A token that an upstream refused. The one that came in its place is not dropped in turn.
update vault.auth_connection_tokens
   set sealed_token = null, refresh_at = null, expires_at = null, after_rejection = true
 where workspace_id = :workspace_id and auth_connection_id = :auth_connection_id
   and config_generation = :config_generation and token_generation = :token_generation
   and sealed_token is not null and not after_rejection
returning token_generation as generation;
