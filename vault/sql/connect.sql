-- Connect sessions and the tries in them.

-- name: lookup
select workspace_id, id, hash from vault.lookup_bearer(:hash, :kind);

-- name: insert
insert into vault.connect_sessions
       (workspace_id, session_id, hash, user_id, environment, integrations, return_url, confirm,
        replace_account, created_by, expires_at)
values (:workspace_id, :session_id, :hash, :user_id, :environment, :integrations, :return_url,
        :confirm, :replace_account, :created_by, now() + :lifetime::integer * interval '1 second')
returning session_id, user_id, environment, integrations, return_url, confirm, replace_account,
          created_at, expires_at, false as expired;

-- name: get
select session_id, user_id, environment, integrations, return_url, confirm, replace_account,
       created_at, expires_at, expires_at <= now() as expired
  from vault.connect_sessions
 where workspace_id = :workspace_id and session_id = :session_id;

-- name: forget_old
-- A day after its end nobody asks how it ended any more.
delete from vault.connect_sessions
 where workspace_id = :workspace_id and expires_at < now() - interval '1 day';

-- name: flows
select flow_id, session_id, integration, browser_hash, code_hash, status, outcome, generation,
       sealed, expires_at <= now() as expired
  from vault.connect_flows
 where workspace_id = :workspace_id and session_id = :session_id
 order by flow_id;

-- name: flow
select flow_id, session_id, integration, browser_hash, code_hash, status, outcome, generation,
       sealed, expires_at <= now() as expired
  from vault.connect_flows
 where workspace_id = :workspace_id and flow_id = :flow_id;

-- name: give_up
-- The same person begins again: the try before can no longer come back.
update vault.connect_flows
   set status = 'failed', outcome = 'superseded', sealed = null
 where workspace_id = :workspace_id and session_id = :session_id and integration = :integration
   and status in ('started', 'choice', 'confirm') and browser_hash = :browser_hash;

-- name: begin
insert into vault.connect_flows
       (workspace_id, flow_id, session_id, integration, state_hash, browser_hash, status, sealed,
        expires_at)
values (:workspace_id, :flow_id, :session_id, :integration, :state_hash, :browser_hash, 'started',
        :sealed, now() + :lifetime::integer * interval '1 second')
on conflict do nothing
returning flow_id as id;

-- name: consume
-- Whoever comes second finds nothing.
update vault.connect_flows
   set status = 'exchanging'
 where workspace_id = :workspace_id and flow_id = :flow_id and status = 'started'
   and browser_hash = :browser_hash and expires_at > now()
returning flow_id, session_id, integration, browser_hash, code_hash, status, outcome, generation,
          sealed, false as expired;

-- name: advance
update vault.connect_flows
   set status = :status, outcome = :outcome, sealed = :sealed, generation = :generation,
       code_hash = :code_hash, expires_at = now() + :lifetime::integer * interval '1 second'
 where workspace_id = :workspace_id and flow_id = :flow_id and generation = :generation - 1
   and status = :before
returning flow_id as id;
