-- Conversations, and the bearers by which they are reached.

-- name: insert
-- A conversation and its line in the record, which says whose tokens it is given.
with noted as (
    insert into vault.audit_events
           (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
            environment, outcome, request_id, connection_ids)
    values (:workspace_id, :event_id, :actor_kind, :actor_id, 'conversation.mint', 'conversation',
            :conversation_id, :user_ref, :environment, 'ok', :request_id, :handed)
)
insert into vault.conversations
       (workspace_id, conversation_id, agent_id, user_id, environment, runtime, channel, delivery,
        branch_id, key_id, connection_ids, kept, armed, upstream_id, bearer_kind, bearer_hash,
        ticket_hash, start_by, expires_at)
values (:workspace_id, :conversation_id, :agent_id, :user_id, :environment, :runtime, :channel,
        :delivery, :branch_id, :key_id, :connection_ids, :kept, :armed, :upstream_id, :bearer_kind,
        :bearer_hash, :ticket_hash, now() + :start_within::integer * interval '1 second',
        now() + :lasts::integer * interval '1 second')
returning created_at, start_by, expires_at;

-- name: reissue
-- The same request once more: new bearers, in the place of those that nobody has used.
with again as (
    update vault.conversations
       set bearer_kind = :bearer_kind, bearer_hash = :bearer_hash, ticket_hash = :ticket_hash,
           upstream_id = :upstream_id, connection_ids = :connection_ids, kept = :kept
     where workspace_id = :workspace_id and conversation_id = :conversation_id
       and state = 'prepared' and expires_at > now()
       and (ticket_hash is null or start_by > now())
       and (delivery <> 'relay' or bearer_kind is null or ticket_hash is not null)
    returning created_at, start_by, expires_at
), noted as (
    insert into vault.audit_events
           (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
            environment, outcome, request_id, connection_ids)
    select :workspace_id, :event_id, :actor_kind, :actor_id, 'conversation.mint', 'conversation',
           :conversation_id, :user_ref, :environment, 'again', :request_id, :handed
      from again
)
select a.created_at, a.start_by, a.expires_at from again a;

-- name: lookup
-- crosses workspaces: the authentication role's look-up; finds only who holds the whole hash
select workspace_id, conversation_id, hash from vault.lookup_conversation(:hash, :kind);

-- name: get
select c.conversation_id, c.agent_id, c.user_id, c.environment, c.runtime, c.channel, c.delivery,
       c.branch_id, c.key_id, c.state, c.armed, c.upstream_id, c.created_at, c.start_by,
       c.started_at, c.expires_at, c.ended_at,
       c.expires_at <= now() or (c.ticket_hash is not null and c.start_by <= now()) as expired
  from vault.conversations c
 where c.workspace_id = :workspace_id and c.conversation_id = :conversation_id;

-- name: find
-- By what its runtime calls it.
select c.conversation_id, c.agent_id, c.user_id, c.environment, c.runtime, c.channel, c.delivery,
       c.branch_id, c.key_id, c.state, c.armed, c.upstream_id, c.created_at, c.start_by,
       c.started_at, c.expires_at, c.ended_at,
       c.expires_at <= now() or (c.ticket_hash is not null and c.start_by <= now()) as expired
  from vault.conversations c
 where c.workspace_id = :workspace_id and :upstream_id = c.upstream_id
 order by c.conversation_id desc
 limit 1;

-- name: list
-- Newest first.
select c.conversation_id, c.agent_id, c.user_id, c.environment, c.runtime, c.channel, c.delivery,
       c.branch_id, c.key_id, c.state, c.armed, c.upstream_id, c.created_at, c.start_by,
       c.started_at, c.expires_at, c.ended_at,
       c.expires_at <= now() or (c.ticket_hash is not null and c.start_by <= now()) as expired
  from vault.conversations c
 where c.workspace_id = :workspace_id
   and (:before = '' or c.conversation_id < :before)
   and (:environments::text[] = '{}' or c.environment = any(:environments::text[]))
   and (:user_id = '' or c.user_id = :user_id)
   and (:agent_id = '' or c.agent_id = :agent_id)
 order by c.conversation_id desc
 limit :limit;

-- name: kept
-- A conversation that lives, with what it may do and the user's key that opens it.
select c.conversation_id, c.agent_id, c.user_id, c.environment, c.runtime, c.channel, c.delivery,
       c.branch_id, c.key_id, c.state, c.armed, c.upstream_id, c.created_at, c.start_by,
       c.started_at, c.expires_at, c.ended_at,
       c.expires_at <= now() or (c.ticket_hash is not null and c.start_by <= now()) as expired,
       c.connection_ids, c.kept, k.sealed as user_key
  from vault.conversations c
  join vault.user_keys k on k.workspace_id = c.workspace_id and k.user_id = c.user_id
 where c.workspace_id = :workspace_id and c.conversation_id = :conversation_id
   and c.ended_at is null and c.expires_at > now();

-- name: use_ticket
-- Once: whoever comes second finds no hash. From now on the conversation has its grant.
update vault.conversations
   set ticket_hash = null, bearer_kind = :bearer_kind, bearer_hash = :bearer_hash
 where workspace_id = :workspace_id and conversation_id = :conversation_id
   and ticket_hash = :hash and ended_at is null and start_by > now()
returning conversation_id as id;

-- name: left
select extract(epoch from expires_at - now())::float8 as seconds_left
  from vault.conversations
 where workspace_id = :workspace_id and conversation_id = :conversation_id;

-- name: began
update vault.conversations
   set state = 'started', upstream_id = coalesce(:upstream_id, upstream_id),
       started_at = coalesce(started_at, now())
 where workspace_id = :workspace_id and conversation_id = :conversation_id
   and ended_at is null
returning conversation_id as id;

-- name: finish
update vault.conversations
   set state = 'ended', ended_at = now(), bearer_hash = null, ticket_hash = null
 where workspace_id = :workspace_id and conversation_id = :conversation_id
   and ended_at is null
returning user_id, environment, connection_ids;

-- name: arm
update vault.conversations
   set armed = true
 where workspace_id = :workspace_id and conversation_id = :conversation_id
   and ended_at is null and expires_at > now()
returning user_id, environment, connection_ids;

-- name: old
-- crosses workspaces: the worker's look-up, which sees no more than this of any of them
select c.workspace_id
  from vault.conversations c
 where c.created_at < now() - :days::integer * interval '1 day'
 order by c.created_at
 limit :limit;

-- name: forget
-- The oldest that are over, with what is told of them elsewhere.
delete from vault.conversations
 where workspace_id = :workspace_id and expires_at < now()
   and created_at < now() - :days::integer * interval '1 day'
   and conversation_id in (select c.conversation_id
                             from vault.conversations c
                            where c.workspace_id = :workspace_id
                            order by c.conversation_id
                            limit :limit)
returning conversation_id as id;
