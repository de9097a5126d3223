-- Telling the platform: who wants to hear what, and how each delivery fares.

-- Where events go to. No ciphertext: a worker reads a part of this table.
create table vault.event_endpoints (
    workspace_id text not null references vault.workspaces on delete cascade,
    endpoint_id text not null,
    types text[] not null, -- empty: every type, and those to come
    claim bigint not null default 0, -- counts the turns that replicas took at it
    claimed_until timestamptz, -- until then one replica delivers to it
    failures integer not null default 0, -- turns in a row in which nothing arrived
    failing_since timestamptz,
    rest_until timestamptz, -- nothing is sent before
    delivered_at timestamptz, -- when something last arrived
    disabled_at timestamptz,
    disabled_why text check (disabled_why in ('asked', 'gone', 'failing')),
    created_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, endpoint_id)
) with (fillfactor = 50);

-- Its address, which may hold a key, and what its deliveries are signed with.
create table vault.event_endpoint_secrets (
    workspace_id text not null,
    endpoint_id text not null,
    generation bigint not null, -- of what is sealed
    sealed bytea not null,
    updated_at timestamptz not null default now(),
    primary key (workspace_id, endpoint_id),
    foreign key (workspace_id, endpoint_id) references vault.event_endpoints on delete cascade
);

-- One event on its way to one endpoint. Gone with the event.
create table vault.event_deliveries (
    workspace_id text not null,
    event_id text not null,
    endpoint_id text not null,
    state text not null default 'waiting' check (state in ('waiting', 'delivered', 'failed')),
    queued_at timestamptz not null default now(), -- it is tried for a day from then on
    due_at timestamptz default now(), -- null: it is over
    attempts integer not null default 0,
    tried_at timestamptz,
    status integer, -- of the last answer
    problem text, -- why the last attempt was none
    primary key (workspace_id, event_id, endpoint_id),
    foreign key (workspace_id, event_id) references vault.outbox on delete cascade,
    foreign key (workspace_id, endpoint_id) references vault.event_endpoints on delete cascade
) with (fillfactor = 80);

-- The first that is due of each endpoint is found without looking at the others.
create index event_deliveries_due on vault.event_deliveries (workspace_id, endpoint_id, due_at)
    where due_at is not null;
-- What is too old to be kept.
create index outbox_at on vault.outbox (at);

grant select, insert, update, delete on vault.event_endpoints to keyturn_app;
grant select, insert, update on vault.event_endpoint_secrets to keyturn_app;
grant select, insert, update on vault.event_deliveries to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'event_endpoints', 'event_endpoint_secrets', 'event_deliveries'
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

-- A worker finds who has something waiting, and where something is too old; then it works as the
-- workspace.
grant select (workspace_id, endpoint_id, claimed_until, failures, rest_until)
    on vault.event_endpoints to keyturn_worker;
grant select (workspace_id, endpoint_id, due_at) on vault.event_deliveries to keyturn_worker;
grant select (workspace_id, at) on vault.outbox to keyturn_worker;
create policy worker on vault.event_endpoints for select to keyturn_worker using (true);
create policy worker on vault.event_deliveries for select to keyturn_worker using (true);
create policy worker on vault.outbox for select to keyturn_worker using (true);
