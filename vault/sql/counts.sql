-- Numbers of the whole deployment, for its operator. They name nobody.

-- name: connections
-- crosses workspaces: the worker counts connections, and sees no more than this of any of them
select provider, state, count(*) as number
  from vault.connection_lives
 group by provider, state;

-- name: endpoints
-- crosses workspaces: the worker counts endpoints, and sees no more than this of any of them
select provider, standing, broken, count(*) as number
  from vault.token_endpoints
 group by provider, standing, broken;

-- name: oldest_due
-- crosses workspaces: how long the worker has left waiting what has waited longest
select coalesce(extract(epoch from now() - min(due_at)), 0)::double precision as seconds
  from vault.connection_lives
 where due_at <= now() and (lease_until is null or lease_until <= now());
