-- An older state of the database becomes the present one: what was deleted since goes again, and
-- what was refreshed since is asked for with care.

-- name: users
select user_id, created_at
  from vault.users
 where workspace_id = :workspace_id and user_id > :after
 order by user_id
 limit :limit;

-- name: keys
select key_id
  from vault.api_keys
 where workspace_id = :workspace_id and key_id > :after
 order by key_id
 limit :limit;

-- name: delete_answers
-- They lie under the workspace's key, and so would outlive their user's.
delete from vault.refresh_answers
 where workspace_id = :workspace_id
   and connection_id in (
           select c.connection_id
             from vault.connections c
            where c.workspace_id = :workspace_id and c.user_id = any(:user_ids::text[]));

-- name: delete_users
delete from vault.users
 where workspace_id = :workspace_id and user_id = any(:user_ids::text[]);

-- name: delete_keys
delete from vault.api_keys
 where workspace_id = :workspace_id and key_id = any(:key_ids::text[]);

-- name: forget_old_revocations
-- Given up by now, or long given back.
delete from vault.revocations
 where workspace_id = :workspace_id and give_up_at <= now();

-- name: forget_old_answers
delete from vault.refresh_answers
 where workspace_id = :workspace_id and created_at <= now() - interval '1 day';

-- name: settle
-- Whoever called is not there any more. What was due by now has probably been refreshed since: at a
-- provider where the old refresh token ends then, it is in doubt. Answers that come yet, from a
-- spool, have fences of the former state, and those to come are above all of them. Who was used
-- lately comes first.
update vault.connection_lives
   set lease_owner = null, lease_attempt = null, lease_generation = null, lease_at = null,
       lease_until = null, next_try_at = null,
       fence = fence + :fences::bigint,
       doubt_since = case
           when generation = 0 or verdict is not null or provider = any(:repeatable::text[])
                then doubt_since
           when lease_owner is not null or (renewable and (due_at <= now() or access_ends <= now()))
                then coalesce(doubt_since, lease_at, :taken_at)
           else doubt_since end,
       state = case
           when generation = 0 or verdict is not null then state
           when suspect_since is not null then 'suspect'
           when doubt_since is not null then 'uncertain'
           when not provider = any(:repeatable::text[])
                and (lease_owner is not null
                     or (renewable and (due_at <= now() or access_ends <= now())))
                then 'uncertain'
           when failures > 0 then 'backoff'
           else 'active' end,
       due_at = case
           when due_at > now() or (due_at is null and lease_owner is null) then due_at
           when used_at > now() - interval '1 day' then now()
           else now() + interval '15 minutes' end
 where workspace_id = :workspace_id;

-- name: in_doubt
select count(*) as number
  from vault.connection_lives
 where workspace_id = :workspace_id and state = 'uncertain';

-- name: advance
-- From here on this is the deployment's state; who knows of an earlier epoch only, goes on with it.
-- Where it is, the next process finds out.
update vault.high_water
   set epoch = :epoch, mark = :mark, place = null, folder = null
returning epoch, mark;

-- name: level
select epoch, mark
  from vault.high_water;
