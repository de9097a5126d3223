-- Workspace-level configuration: environments, environment variables, secrets, auth connections.
--
-- The environment 'production' always exists and has no row.

create table vault.environments (
    workspace_id text not null references vault.workspaces on delete cascade,
    name text not null check (name <> 'production'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, name)
);

create table vault.secrets (
    workspace_id text not null references vault.workspaces on delete cascade,
    secret_id text not null,
    name text not null,
    generation bigint not null check (generation > 0),
    sealed bytea not null,
    allowed_hosts text[] not null, -- empty: any host
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, secret_id)
);

create index secrets_name on vault.secrets (workspace_id, name text_pattern_ops);

create table vault.auth_connections (
    workspace_id text not null references vault.workspaces on delete cascade,
    auth_connection_id text not null,
    name text not null,
    auth_type text not null,
    generation bigint not null check (generation > 0),
    sealed bytea not null, -- all that it takes to authenticate
    allowed_hosts text[] not null, -- empty: any host
    -- active -> refresh_failed -> active; any -> credential_invalid, revoked; a new value -> active
    status text not null check (status in ('active', 'refresh_failed', 'revoked', 'credential_invalid')),
    status_detail text,
    status_updated_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, auth_connection_id)
) with (fillfactor = 80);

-- The token that an auth connection fetched, beside the lease of whoever is fetching the next one.
-- Narrow apart from the token: a lease must not rewrite what the connection is made of.
create table vault.auth_connection_tokens (
    workspace_id text not null,
    auth_connection_id text not null,
    config_generation bigint not null, -- of the auth connection that fetched it: a change voids it
    token_generation bigint not null default 0, -- the fence under which the token was written
    sealed_token bytea, -- null: none yet, or refused by an upstream
    obtained_at timestamptz, -- when the request for it began
    refresh_at timestamptz, -- from here on the next one is fetched, while this one still serves
    expires_at timestamptz,
    after_rejection boolean not null default false, -- it came in place of one that was refused
    lease_owner text,
    lease_at timestamptz not null default now(), -- when the latest lease began
    lease_until timestamptz,
    fence bigint not null default 0, -- only ever grows; each lease has its own
    attempts integer not null default 0, -- failures since the last success
    last_failure text, -- the class of the latest one, while it is not made good
    next_try_at timestamptz,
    primary key (workspace_id, auth_connection_id),
    foreign key (workspace_id, auth_connection_id) references vault.auth_connections on delete cascade
) with (fillfactor = 70);

create table vault.environment_variables (
    workspace_id text not null references vault.workspaces on delete cascade,
    variable_id text not null,
    label text not null,
    type text not null check (type in ('string', 'secret', 'auth_connection')),
    generation bigint not null check (generation > 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, variable_id),
    unique (workspace_id, label)
);

-- One row a variable and environment; exactly one of the three values, by the variable's type.
create table vault.environment_values (
    workspace_id text not null,
    variable_id text not null,
    environment text not null,
    generation bigint not null, -- the variable's, when this value was written
    sealed bytea,
    secret_id text,
    auth_connection_id text,
    primary key (workspace_id, variable_id, environment),
    foreign key (workspace_id, variable_id) references vault.environment_variables on delete cascade,
    foreign key (workspace_id, secret_id) references vault.secrets,
    foreign key (workspace_id, auth_connection_id) references vault.auth_connections,
    check (num_nonnulls(sealed, secret_id, auth_connection_id) = 1)
);

create index environment_values_environment on vault.environment_values (workspace_id, environment);
create index environment_values_secret on vault.environment_values (workspace_id, secret_id)
    where secret_id is not null;
create index environment_values_auth on vault.environment_values (workspace_id, auth_connection_id)
    where auth_connection_id is not null;

-- What a workspace has chosen for itself; no row means all defaults.
create table vault.workspace_settings (
    workspace_id text not null references vault.workspaces on delete cascade,
    secret_fallback boolean not null,
    primary key (workspace_id)
);

grant select, insert, update, delete on vault.environments to keyturn_app;
grant select, insert, update, delete on vault.secrets to keyturn_app;
grant select, insert, update, delete on vault.auth_connections to keyturn_app;
grant select, insert, update, delete on vault.auth_connection_tokens to keyturn_app;
grant select, insert, update, delete on vault.environment_variables to keyturn_app;
grant select, insert, update, delete on vault.environment_values to keyturn_app;
grant select, insert, update on vault.workspace_settings to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'environments', 'secrets', 'auth_connections', 'auth_connection_tokens',
        'environment_variables', 'environment_values', 'workspace_settings'
    ] loop
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
