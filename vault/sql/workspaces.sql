-- name: insert
insert into vault.workspaces (workspace_id, name)
values (:workspace_id, :name)
returning workspace_id, name, created_at;

-- name: get
select workspace_id, name, created_at
  from vault.workspaces
 where workspace_id = :workspace_id;

-- name: list
-- crosses workspaces: the operator's directory (policy own_workspace)
select workspace_id, name, created_at
  from vault.workspaces
 where workspace_id > :after
 order by workspace_id
 limit :limit;

-- name: any
-- crosses workspaces: is the database empty?
select workspace_id
  from vault.workspaces
 limit 1;

-- name: count
-- crosses workspaces: the operator's directory (policy own_workspace)
select count(*) as number
  from vault.workspaces;

-- name: delete
-- Takes everything of the workspace with it, its keys first of all; the audit record stays.
delete from vault.workspaces
 where workspace_id = :workspace_id
returning workspace_id;
