-- Agents: what each of them needs, and the tools that were made for it.

-- name: put
-- The first one wins a race for a new agent; the second one tries again as an update.
insert into vault.agents (workspace_id, agent_id, generation, sealed, created_by)
values (:workspace_id, :agent_id, :generation, :sealed, :created_by)
on conflict (workspace_id, agent_id) do update
   set generation = excluded.generation, sealed = excluded.sealed, updated_at = now()
 where agents.generation = excluded.generation - 1
returning agent_id, generation, sealed, created_at, updated_at, created_by;

-- name: get
select agent_id, generation, sealed, created_at, updated_at, created_by
  from vault.agents
 where workspace_id = :workspace_id and agent_id = :agent_id;

-- name: list
select agent_id, generation, sealed, created_at, updated_at, created_by
  from vault.agents
 where workspace_id = :workspace_id and agent_id > :after
 order by agent_id
 limit :limit;

-- name: delete
delete from vault.agents
 where workspace_id = :workspace_id and agent_id = :agent_id
returning agent_id as id;

-- name: tools
select name, tool_id, pushed_at
  from vault.agent_tools
 where workspace_id = :workspace_id and agent_id = :agent_id
 order by name;

-- name: keep_tool
insert into vault.agent_tools (workspace_id, agent_id, name, tool_id)
values (:workspace_id, :agent_id, :name, :tool_id)
on conflict (workspace_id, agent_id, name) do update
   set tool_id = excluded.tool_id, pushed_at = now();

-- name: forget_tools
-- The account that they were made in is another one now, or gone.
delete from vault.agent_tools
 where workspace_id = :workspace_id;
