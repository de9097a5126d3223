-- name: insert
insert into vault.workspace_keys (workspace_id, key_id, version, state, wrapped, root_key_id)
values (:workspace_id, :key_id, :version, 'active', :wrapped, :root_key_id);

-- name: active
-- The key that seals now, and the sealed key of the blind indexes.
select k.key_id, k.version, k.wrapped, k.root_key_id, i.sealed
  from vault.workspace_keys k
  join vault.index_keys i on i.workspace_id = k.workspace_id
 where k.workspace_id = :workspace_id and k.state = 'active'
 order by k.version desc
 limit 1;

-- name: get
select key_id, version, wrapped, root_key_id
  from vault.workspace_keys
 where workspace_id = :workspace_id and key_id = :key_id;

-- name: insert_index_key
insert into vault.index_keys (workspace_id, sealed)
values (:workspace_id, :sealed);

-- name: versions
-- All of a workspace's keys, the newest first.
select key_id, version, state, wrapped, root_key_id, created_at, retired_at
  from vault.workspace_keys
 where workspace_id = :workspace_id
 order by version desc;

-- name: stage
-- A key that nothing is sealed with yet.
insert into vault.workspace_keys (workspace_id, key_id, version, state, wrapped, root_key_id)
values (:workspace_id, :key_id, :version, 'staged', :wrapped, :root_key_id)
on conflict (workspace_id, version) do nothing
returning key_id;

-- name: activate
update vault.workspace_keys
   set state = 'active'
 where workspace_id = :workspace_id and key_id = :key_id and state = 'staged'
returning key_id;

-- name: retire
update vault.workspace_keys
   set state = 'retired', retired_at = now()
 where workspace_id = :workspace_id and key_id = :key_id and state = 'active'
returning key_id;

-- name: rewrap
update vault.workspace_keys
   set wrapped = :wrapped, root_key_id = :root_key_id
 where workspace_id = :workspace_id and key_id = :key_id and wrapped = :before
returning key_id;

-- name: destroy
-- What was sealed with it is noise from here on, also in backups that need this row.
delete from vault.workspace_keys
 where workspace_id = :workspace_id and key_id = :key_id and state = 'retired'
   and retired_at < now() - :kept::interval
returning key_id;

-- name: staged
select key_id, version, wrapped, root_key_id
  from vault.workspace_keys
 where workspace_id = :workspace_id and state = 'staged';
