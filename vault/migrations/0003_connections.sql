-- App registrations, the connections that people make through them, and the way there.

create table vault.integrations (
    workspace_id text not null references vault.workspaces on delete cascade,
    integration text not null,
    provider text not null,
    generation bigint not null check (generation > 0),
    sealed bytea not null, -- what the app registration is made of, client secrets included
    secret_ids text[] not null, -- the workspace's secrets that it refers to
    share_connections boolean not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, integration)
);

-- One user's consent at one integration in one environment. What it holds is in a row of its own.
create table vault.connections (
    workspace_id text not null,
    connection_id text not null,
    user_id text not null,
    integration text not null,
    environment text not null,
    provider text not null,
    state text not null check (state in (
        'pending', 'active', 'refreshing', 'backoff', 'uncertain', 'suspect', 'needs_reauth',
        'revoking', 'revoked')), -- states of docs/reference/connections.md
    needs text check (needs in ('confirm', 'choice')), -- what a pending one waits for
    refresh_by text not null check (refresh_by in ('keyturn', 'caller')),
    generation bigint not null check (generation >= 0), -- of the tokens; 0: none yet
    account bytea, -- blind index of the account at the provider; null: not known
    asked_scopes text[] not null,
    scopes text[], -- null: the provider does not say, so those that were asked for
    expires_at timestamptz, -- of the access token; null: it does not expire
    refresh_expires_at timestamptz,
    consented_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (workspace_id, connection_id),
    unique (workspace_id, user_id, integration, environment),
    foreign key (workspace_id, user_id) references vault.users on delete cascade,
    foreign key (workspace_id, integration) references vault.integrations
) with (fillfactor = 80);

create index connections_account on vault.connections (workspace_id, integration, account)
    where account is not null;

-- Sealed under the user's own key. Only a writer of tokens touches this row.
create table vault.connection_tokens (
    workspace_id text not null,
    connection_id text not null,
    generation bigint not null check (generation > 0),
    sealed bytea not null,
    primary key (workspace_id, connection_id),
    foreign key (workspace_id, connection_id) references vault.connections on delete cascade
) with (fillfactor = 70);

-- An invitation to connect: what a link stands for.
create table vault.connect_sessions (
    workspace_id text not null,
    session_id text not null,
    hash bytea not null check (length(hash) = 32), -- keyed; the link's bearer is stored nowhere
    user_id text not null,
    environment text not null,
    integrations text[] not null,
    return_url text,
    confirm text not null check (confirm in ('page', 'backend')),
    replace_account boolean not null, -- may another account take the place of the one before?
    created_at timestamptz not null default now(),
    created_by text not null,
    expires_at timestamptz not null,
    primary key (workspace_id, session_id),
    foreign key (workspace_id, user_id) references vault.users on delete cascade
);

-- Not unique, so that the table can be spread by workspace: the hash is of 256 random bits.
create index connect_sessions_hash on vault.connect_sessions (hash);

-- One try to connect one integration, in one browser. The newest one of a session counts.
create table vault.connect_flows (
    workspace_id text not null,
    flow_id text not null,
    session_id text not null,
    integration text not null,
    state_hash bytea not null check (length(state_hash) = 32), -- keyed; the state is stored nowhere
    browser_hash bytea not null check (length(browser_hash) = 32), -- keyed hash of a cookie
    code_hash bytea check (length(code_hash) = 32), -- keyed hash of the completing code
    status text not null check (status in ('started', 'exchanging', 'choice', 'confirm', 'done', 'failed')),
    outcome text not null default '', -- how it ended, as return_url says it
    generation bigint not null default 1, -- of what is sealed
    sealed bytea, -- verifier, nonce, what the person typed; later what the provider gave
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (workspace_id, flow_id),
    foreign key (workspace_id, session_id) references vault.connect_sessions on delete cascade
);

create index connect_flows_state on vault.connect_flows (state_hash);
create unique index connect_flows_latest on vault.connect_flows (workspace_id, session_id, integration)
    where status <> 'failed'; -- at most one try is under way or has succeeded

-- What is still to be given back to a provider. No ciphertext: a worker reads this table.
create table vault.revocations (
    workspace_id text not null references vault.workspaces on delete cascade,
    revocation_id text not null,
    connection_id text not null, -- gone, by now
    integration text not null,
    environment text not null,
    attempts integer not null default 0,
    due_at timestamptz not null default now(),
    give_up_at timestamptz not null,
    primary key (workspace_id, revocation_id)
);

create index revocations_due on vault.revocations (due_at);

-- The tokens for it, under the workspace's key: the user's own may be gone already.
create table vault.revocation_tokens (
    workspace_id text not null,
    revocation_id text not null,
    sealed bytea not null,
    primary key (workspace_id, revocation_id),
    foreign key (workspace_id, revocation_id) references vault.revocations on delete cascade
);

alter table vault.workspace_settings
    add column return_origins text[] not null default '{}'; -- where a person may be sent back to

grant select, insert, update, delete on vault.integrations to keyturn_app;
grant select, insert, update, delete on vault.connections to keyturn_app;
grant select, insert, update, delete on vault.connection_tokens to keyturn_app;
grant select, insert, update, delete on vault.connect_sessions to keyturn_app;
grant select, insert, update, delete on vault.connect_flows to keyturn_app;
grant select, insert, update, delete on vault.revocations to keyturn_app;
grant select, insert, delete on vault.revocation_tokens to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'integrations', 'connections', 'connection_tokens', 'connect_sessions', 'connect_flows',
        'revocations', 'revocation_tokens'
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

-- A link and a state name their workspace only once they are found, like an API key. Which of the
-- two tables is asked is in the call, so that a state never opens what a link opens.
grant select (workspace_id, session_id, hash, expires_at) on vault.connect_sessions to keyturn_auth;
grant select (workspace_id, flow_id, state_hash, expires_at) on vault.connect_flows to keyturn_auth;
create policy lookup_bearer on vault.connect_sessions for select to keyturn_auth using (true);
create policy lookup_bearer on vault.connect_flows for select to keyturn_auth using (true);

create function vault.lookup_bearer(bearer_hash bytea, bearer_kind text)
returns table (workspace_id text, id text, hash bytea)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select s.workspace_id, s.session_id, s.hash
      from vault.connect_sessions s
     where bearer_kind = 'connect' and s.hash = bearer_hash
    union all
    select f.workspace_id, f.flow_id, f.state_hash
      from vault.connect_flows f
     where bearer_kind = 'state' and f.state_hash = bearer_hash;
$$;

grant usage, create on schema vault to keyturn_auth;
alter function vault.lookup_bearer(bytea, text) owner to keyturn_auth;
revoke create on schema vault from keyturn_auth;
revoke all on function vault.lookup_bearer(bytea, text) from public;
grant execute on function vault.lookup_bearer(bytea, text) to keyturn_app;

-- A worker finds what is due in all workspaces, and nothing else of them; then it works as the
-- workspace, through the application's login.
grant select (workspace_id, revocation_id, due_at) on vault.revocations to keyturn_worker;
create policy worker on vault.revocations for select to keyturn_worker using (true);
