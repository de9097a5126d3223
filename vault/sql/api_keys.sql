-- name: insert
insert into vault.api_keys (workspace_id, key_id, hash, name, scopes, environments, created_by, expires_at)
values (:workspace_id, :key_id, :hash, :name, :scopes, :environments, :created_by, :expires_at)
returning key_id, name, scopes, environments, created_at, created_by, expires_at, last_used_at;

-- name: get
select key_id, name, scopes, environments, created_at, created_by, expires_at, last_used_at
  from vault.api_keys
 where workspace_id = :workspace_id and key_id = :key_id;

-- name: list
select key_id, name, scopes, environments, created_at, created_by, expires_at, last_used_at
  from vault.api_keys
 where workspace_id = :workspace_id and key_id > :after
 order by key_id
 limit :limit;

-- name: delete
delete from vault.api_keys
 where workspace_id = :workspace_id and key_id = :key_id
returning key_id;

-- name: lookup
-- crosses workspaces: the authentication role's look-up; finds only who holds the whole hash
select workspace_id, key_id, hash, scopes, environments, expires_at
  from vault.lookup_bearer(:hash);
