-- Agents and what they need; where a workspace's runtime is.

-- An agent's profile. Sealed although it holds no secret: it says who may open a sealed token and
-- which requests the gateway lets through, and so nobody but us may change it.
create table vault.agents (
    workspace_id text not null references vault.workspaces on delete cascade,
    agent_id text not null,
    generation bigint not null check (generation > 0),
    sealed bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, agent_id)
);

-- A workspace's account at a runtime's maker.
create table vault.upstreams (
    workspace_id text not null references vault.workspaces on delete cascade,
    kind text not null check (kind in ('elevenlabs')),
    generation bigint not null check (generation > 0),
    base_url text not null,
    sealed bytea not null, -- its API key, and what its webhooks are signed with
    claim_hash bytea not null check (length(claim_hash) = 32), -- keyed; of place and API key
    claimed_at timestamptz not null default now(),
    runtime_key_id text, -- the API key of ours that lies in the account's own secret store
    runtime_secret_id text, -- and the id that it has there
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, kind)
);

-- Not unique, so that the table can be spread by workspace.
create index upstreams_claim on vault.upstreams (claim_hash);

-- The tools that were made there for an agent, to be changed and not made again.
create table vault.agent_tools (
    workspace_id text not null references vault.workspaces on delete cascade,
    agent_id text not null, -- one that nobody wrote a profile for has tools, too
    name text not null,
    tool_id text not null,
    pushed_at timestamptz not null default now(),
    primary key (workspace_id, agent_id, name)
);

grant select, insert, update, delete on vault.agents to keyturn_app;
grant select, insert, update, delete on vault.upstreams to keyturn_app;
grant select, insert, update, delete on vault.agent_tools to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array['agents', 'upstreams', 'agent_tools'] loop
        execute format('alter table vault.%I enable row level security', workspace_table);
        execute format('alter table vault.%I force row level security', workspace_table);
        execute format('create policy app on vault.%I to keyturn_app using (true) with check (true)', workspace_table);
        execute format(
            'create policy own_workspace on vault.%I as restrictive to keyturn_app '
            'using (workspace_id = current_setting(''keyturn.workspace'')) '
            'with check (workspace_id = current_setting(''keyturn.workspace''))', workspace_table);
    end loop;
end
$$;

-- An account belongs to one workspace, so this look-up crosses workspaces. It finds only who else
-- holds the very same account, for who knows its API key.
grant select (workspace_id, kind, claim_hash, claimed_at) on vault.upstreams to keyturn_auth;
create policy lookup_upstream on vault.upstreams for select to keyturn_auth using (true);

create function vault.lookup_upstream(upstream_hash bytea)
returns table (workspace_id text, claimed_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select u.workspace_id, u.claimed_at
      from vault.upstreams u
     where u.claim_hash = upstream_hash;
$$;

grant usage, create on schema vault to keyturn_auth;
alter function vault.lookup_upstream(bytea) owner to keyturn_auth;
revoke create on schema vault from keyturn_auth;
revoke all on function vault.lookup_upstream(bytea) from public;
grant execute on function vault.lookup_upstream(bytea) to keyturn_app;
