-- name: list
select u.user_id, u.generation, u.profile, u.created_at, u.updated_at, k.sealed as user_key
  from vault.users u
  join vault.user_keys k on k.workspace_id = u.workspace_id and k.user_id = u.user_id
 where u.workspace_id = :workspace_id and u.user_id > :after
 order by u.user_id
 limit :limit;

-- name: get
select u.user_id, u.generation, u.profile, u.created_at, u.updated_at, k.sealed as user_key
  from vault.users u
  join vault.user_keys k on k.workspace_id = u.workspace_id and k.user_id = u.user_id
 where u.workspace_id = :workspace_id and u.user_id = :user_id;

-- name: insert
-- Two requests may bring the same new user at once; the second one updates.
insert into vault.users (workspace_id, user_id, generation, profile)
values (:workspace_id, :user_id, 1, :profile)
on conflict (workspace_id, user_id) do nothing
returning created_at, updated_at;

-- name: insert_key
insert into vault.user_keys (workspace_id, user_id, sealed)
values (:workspace_id, :user_id, :sealed);

-- name: update
update vault.users
   set generation = :generation, profile = :profile, updated_at = now()
 where workspace_id = :workspace_id and user_id = :user_id and generation = :generation - 1
returning created_at, updated_at;

-- name: delete
delete from vault.users
 where workspace_id = :workspace_id and user_id = :user_id
returning created_at;

-- name: forget_numbers
delete from vault.user_numbers
 where workspace_id = :workspace_id and user_id = :user_id;

-- name: insert_numbers
insert into vault.user_numbers (workspace_id, user_id, number_hash)
select :workspace_id, :user_id, n.number_hash
  from unnest(:numbers::bytea[]) as n (number_hash);

-- name: by_number
-- Two are enough to know that it is not one.
select user_id
  from vault.user_numbers
 where workspace_id = :workspace_id and number_hash = :number_hash
 limit 2;
