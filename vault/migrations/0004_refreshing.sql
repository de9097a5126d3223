-- Keeping tokens alive: what changes about a connection moves to a narrow row of its own, so that a
-- refresh rewrites neither what is known of the connection nor a page of ciphertext.

-- When tokens are refreshed: always ahead of their end; while they are in use; when asked for.
alter table vault.integrations
    add column refresh_policy text not null default 'active'
        check (refresh_policy in ('eager', 'active', 'lazy'));

-- When to look at a connection next, who may call the provider for it now, and how it fares.
-- No ciphertext: a worker reads a part of this table.
create table vault.connection_lives (
    workspace_id text not null,
    connection_id text not null,
    integration text not null,
    environment text not null,
    provider text not null, -- for whoever counts
    state text not null check (state in (
        'pending', 'active', 'refreshing', 'backoff', 'uncertain', 'suspect', 'needs_reauth',
        'revoking', 'revoked')), -- states of docs/reference/connections.md
    generation bigint not null check (generation >= 0), -- counts token sets; 0: none yet
    fence bigint not null default 0, -- counts claims and consents
    saved bigint not null default 0, -- the fence whose answer the present tokens are
    consented bigint not null default 0, -- the fence of the present consent
    lease_owner text, -- the replica that may call the provider now
    lease_attempt text,
    lease_generation bigint,
    lease_at timestamptz,
    lease_until timestamptz,
    doubt_since timestamptz, -- since then a call may have used up the refresh token
    suspect_since timestamptz, -- since then the provider calls the grant dead
    suspect_lost boolean not null default false,
    orphan bigint, -- the fence of an answer that was put aside
    failures integer not null default 0,
    last_failure text,
    next_try_at timestamptz,
    verdict text check (verdict in ('refused', 'lost_rotation')),
    told boolean not null default false, -- the world has heard that it is in trouble
    issued_at timestamptz, -- when the present tokens were asked for
    consented_at timestamptz,
    access_ends timestamptz, -- null: it does not end
    idle_ends timestamptz,
    consent_ends timestamptz,
    renewable boolean not null default false,
    policy text not null default 'active' check (policy in ('eager', 'active', 'lazy')),
    noticed integer, -- seconds before the end, of the last notice that was given
    used_at timestamptz, -- to the quarter of an hour
    expected_at timestamptz, -- a conversation was announced for then
    promised integer not null default 0, -- seconds that a token has to last when it is handed out
    due_at timestamptz,
    user_ref text not null default '', -- the user's pseudonym in the audit record
    primary key (workspace_id, connection_id),
    foreign key (workspace_id, connection_id) references vault.connections on delete cascade
) with (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

create index connection_lives_due on vault.connection_lives (due_at) where due_at is not null;
-- What is due of each workspace, where one has more of it than a sweep looks at.
create index connection_lives_turns on vault.connection_lives (workspace_id, due_at)
    where due_at is not null;
-- Only what is under way: whose replica is dead is found by it.
create index connection_lives_leased on vault.connection_lives (lease_owner)
    where lease_owner is not null;

insert into vault.connection_lives
       (workspace_id, connection_id, integration, environment, provider, state, generation,
        issued_at, consented_at, access_ends, consent_ends, renewable, due_at)
select workspace_id, connection_id, integration, environment, provider, state, generation,
       updated_at, consented_at, expires_at, refresh_expires_at, refresh_by = 'keyturn' and expires_at is not null,
       case when state = 'active' then now() end
  from vault.connections;

alter table vault.connections
    drop column state,
    drop column generation,
    drop column expires_at,
    drop column refresh_expires_at,
    drop column consented_at;

-- A token set is rewritten in place, on its own page.
alter table vault.connection_tokens set (fillfactor = 80);
alter table vault.connection_tokens alter column sealed set storage external;

-- Who holds which generation, so that no refresh takes it away for nothing.
create table vault.connection_holds (
    workspace_id text not null,
    connection_id text not null,
    holder text not null, -- a conversation
    generation bigint not null,
    held_until timestamptz not null,
    primary key (workspace_id, connection_id, holder),
    foreign key (workspace_id, connection_id) references vault.connections on delete cascade
) with (fillfactor = 80);

-- Answers of providers that could not become a connection's tokens as they came: too late for it,
-- or not to be read. Sealed under the workspace's key; kept for a day.
create table vault.refresh_answers (
    workspace_id text not null references vault.workspaces on delete cascade,
    connection_id text not null, -- may be gone
    fence bigint not null,
    kind text not null check (kind in ('tokens', 'raw')),
    sealed bytea not null,
    created_at timestamptz not null default now(),
    primary key (workspace_id, connection_id, fence)
);

-- How each call for a connection ended, for its timeline. Kept for a month.
create table vault.refresh_attempts (
    workspace_id text not null,
    connection_id text not null,
    fence bigint not null,
    owner text not null, -- the replica
    attempt text not null,
    began_at timestamptz not null,
    ended_at timestamptz not null default now(),
    outcome text not null, -- refreshed, late, orphan, unused, lost, or a class of failure
    detail text not null default '',
    http_status integer,
    generation bigint, -- of the tokens that it brought
    primary key (workspace_id, connection_id, fence),
    foreign key (workspace_id, connection_id) references vault.connections on delete cascade
) with (fillfactor = 80);

-- A token endpoint as one app registration reaches it in one environment: whether calls may begin,
-- how fast, and why not. Shared by all replicas.
create table vault.token_endpoints (
    workspace_id text not null,
    integration text not null,
    environment text not null,
    provider text not null, -- for whoever counts
    standing text not null check (standing in ('open', 'held', 'paused')),
    broken boolean not null, -- its circuit is open: it does not answer, and is left alone
    resting_until timestamptz, -- nobody calls before
    learned bytea not null, -- msgpack of vault.lifecycle.endpoint.Endpoint; no secret
    primary key (workspace_id, integration, environment),
    foreign key (workspace_id, integration) references vault.integrations on delete cascade
) with (fillfactor = 50);

-- News for the platform, delivered from here.
create table vault.outbox (
    workspace_id text not null references vault.workspaces on delete cascade,
    event_id text not null,
    type text not null,
    at timestamptz not null default now(),
    body text not null, -- JSON; names by id, and no secret
    primary key (workspace_id, event_id)
);

-- The processes of this deployment. Global; holds nothing of any workspace.
create table vault.replicas (
    replica_id text primary key,
    lock_key bigint not null, -- of a session advisory lock that it holds while it lives
    locked boolean not null,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
) with (fillfactor = 50);

-- How far this deployment has come. What stands outside of the database is compared with it: a
-- database that was rolled back is behind. Global; holds nothing of any workspace.
create table vault.high_water (
    singleton boolean primary key default true check (singleton),
    mark bigint not null
) with (fillfactor = 50);

insert into vault.high_water (mark) values (0);

grant select, insert, update, delete on vault.connection_lives to keyturn_app;
grant select, insert, update, delete on vault.connection_holds to keyturn_app;
grant select, insert, delete on vault.refresh_answers to keyturn_app;
grant select, insert, update, delete on vault.refresh_attempts to keyturn_app;
grant select, insert, update, delete on vault.token_endpoints to keyturn_app;
grant select, insert, delete on vault.outbox to keyturn_app;
grant select, insert, update, delete on vault.replicas to keyturn_app;
grant select, update on vault.high_water to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'connection_lives', 'connection_holds', 'refresh_answers', 'refresh_attempts',
        'token_endpoints', 'outbox'
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

-- A worker finds what is due in all workspaces, and in what order; then it works as the workspace.
grant select (workspace_id, connection_id, integration, environment, used_at, access_ends, due_at,
              lease_owner)
    on vault.connection_lives to keyturn_worker;
create policy worker on vault.connection_lives for select to keyturn_worker using (true);
-- And it counts, by provider and state.
grant select (provider, state) on vault.connection_lives to keyturn_worker;
grant select (workspace_id, provider, standing, broken) on vault.token_endpoints to keyturn_worker;
create policy worker on vault.token_endpoints for select to keyturn_worker using (true);

-- What waits in a session for a choice or a confirmation is given back when nobody comes any more.
alter table vault.connect_sessions add column waits boolean not null default false;
create index connect_sessions_waiting on vault.connect_sessions (expires_at) where waits;
grant select (workspace_id, session_id, expires_at, waits) on vault.connect_sessions to keyturn_worker;
create policy worker on vault.connect_sessions for select to keyturn_worker using (true);
