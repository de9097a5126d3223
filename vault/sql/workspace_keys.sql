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
