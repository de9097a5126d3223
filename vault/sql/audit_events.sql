-- name: insert
insert into vault.audit_events
       (workspace_id, event_id, actor_kind, actor_id, action, target_kind, target_id, user_ref,
        environment, outcome, request_id)
values (:workspace_id, :event_id, :actor_kind, :actor_id, :action, :target_kind, :target_id, :user_ref,
        :environment, :outcome, :request_id);

-- name: list
-- Newest first.
select event_id, at, actor_kind, actor_id, action, target_kind, target_id, user_ref,
       environment, outcome, request_id, connection_ids
  from vault.audit_events
 where workspace_id = :workspace_id
   and (:before = '' or event_id < :before)
   and (:action = '' or action = :action)
   and (:user_ref = '' or user_ref = :user_ref)
 order by event_id desc
 limit :limit;
