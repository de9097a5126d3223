-- Connect sessions and the tries in them.

-- name: lookup
-- crosses workspaces: the authentication role's look-up; finds only who holds the whole hash
select workspace_id, id, hash from vault.lookup_bearer(:hash, :kind);

-- name: insert
insert into vault.connect_sessions
       (workspace_id, session_id, hash, user_id, environment, integrations, return_url, confirm,
        replace_account, created_by, expires_at)
values (:workspace_id, :session_id, :hash, :user_id, :environment, :integrations, :return_url,
        :confirm, :replace_account, :created_by, now() + :lifetime::integer * interval '1 second')
returning created_at, expires_at;

-- name: insert_many
-- Invitations for many users at once, with their lines in the record.
with new as (
    select n.session_id, n.hash, n.user_id, n.integrations, n.event_id, n.user_ref
      from unnest(:session_ids::text[], :hashes::bytea[], :user_ids::text[], :integrations::text[],
                  :event_ids::text[], :user_refs::text[])
           as n(session_id, hash, user_id, integrations, event_id, user_ref)
      join vault.users u on u.workspace_id = :workspace_id and u.user_id = n.user_id
), noted as (
    insert into vault.audit_events
           (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
            environment, outcome, request_id)
    select :workspace_id, n.event_id, :actor_kind, :actor_id, 'connect_session.write',
           'connect_session', n.session_id, n.user_ref, :environment, 'ok', :request_id
      from new n
)
insert into vault.connect_sessions
       (workspace_id, session_id, hash, user_id, environment, integrations, return_url, confirm,
        replace_account, created_by, expires_at)
select :workspace_id, n.session_id, n.hash, n.user_id, :environment,
       string_to_array(n.integrations, ','), null, 'page', false, :actor_id,
       now() + :lifetime::integer * interval '1 second'
  from new n
returning session_id as id;

-- name: get
select session_id, user_id, environment, integrations, return_url, confirm, replace_account,
       created_at, expires_at, expires_at <= now() as expired
  from vault.connect_sessions
 where workspace_id = :workspace_id and session_id = :session_id;

-- name: list
select session_id, user_id, environment, integrations, return_url, confirm, replace_account,
       created_at, expires_at, expires_at <= now() as expired
  from vault.connect_sessions
 where workspace_id = :workspace_id
   and session_id > :after
   and (:user_id = '' or user_id = :user_id)
   and (:environments::text[] = '{}' or environment = any(:environments::text[]))
 order by session_id
 limit :limit;

-- name: delete
delete from vault.connect_sessions
 where workspace_id = :workspace_id and session_id = :session_id
returning session_id as id;

-- name: forget_old
-- A day after its end nobody asks how it ended any more.
delete from vault.connect_sessions
 where workspace_id = :workspace_id and expires_at < now() - interval '1 day';

-- name: wait
update vault.connect_sessions
   set waits = true
 where workspace_id = :workspace_id and session_id = :session_id and not waits;

-- name: abandoned
-- crosses workspaces: the worker's look-up, which sees no more than this of any of them
-- Every try in it has ended by then, or waits for somebody who will not come.
select workspace_id, session_id as id
  from vault.connect_sessions
 where waits and expires_at < now() - interval '1 hour'
 order by expires_at
 limit :limit;

-- name: settle
update vault.connect_sessions
   set waits = false
 where workspace_id = :workspace_id and session_id = :session_id;

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
on conflict (workspace_id, session_id, integration) where status <> 'failed' do nothing
returning flow_id as id;

-- name: consume
-- Whoever comes second finds nothing.
update vault.connect_flows
   set status = 'exchanging'
 where workspace_id = :workspace_id and flow_id = :flow_id and status = 'started'
   and browser_hash = :browser_hash and expires_at > now()
returning flow_id as id;

-- name: advance
update vault.connect_flows
   set status = :status, outcome = :outcome, sealed = :sealed, generation = :generation,
       code_hash = :code_hash, expires_at = now() + :lifetime::integer * interval '1 second'
 where workspace_id = :workspace_id and flow_id = :flow_id and generation = :generation - 1
   and status = :before
returning flow_id as id;
