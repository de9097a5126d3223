-- The audit record as a sealed chain: lines are written as ever, and sealed in batches a moment
-- later. What was there before is sealed in the first batches.

-- In which transaction a line was written. A number is given out before its transaction commits, so
-- a batch ends below every transaction that is still under way: no line comes in behind it.
alter table vault.audit_events add column xact bigint not null default 0;
-- migrate() writes another constant in front where the database has moved to another server, whose
-- transactions count from the beginning.
alter table vault.audit_events alter column xact set default 0 + pg_current_xact_id()::text::bigint;

create index audit_events_xact on vault.audit_events (workspace_id, xact, event_id collate "C");
-- What is new, in all workspaces. It costs next to nothing, since lines come in this order.
create index audit_events_new on vault.audit_events using brin (xact) with (pages_per_range = 16, autosummarize);

-- Whose turn it is to seal, and how far all of it has been sealed. Global; holds nothing of any
-- workspace.
create table vault.audit_sealing (
    singleton boolean primary key default true check (singleton),
    server text not null, -- whose transactions are counted
    shift bigint not null default 0, -- the constant that stands in the column's default
    seal bigint not null default 1 check (seal > 0), -- the seal that batches are being made for
    sealed_to bigint not null default 0, -- lines of earlier transactions are in batches
    lease_owner text,
    lease_until timestamptz
) with (fillfactor = 50);

insert into vault.audit_sealing (server)
select system_identifier::text from pg_control_system();

-- Lines of one workspace that follow each other, sealed. It outlives the workspace, as they do.
create table vault.audit_batches (
    workspace_id text not null,
    number bigint not null check (number > 0),
    seal bigint not null,
    from_xact bigint not null,
    from_event text not null,
    to_xact bigint not null, -- the first place that is not in it any more
    to_event text not null,
    first bigint not null, -- how many lines of the chain stand before it
    lines integer not null check (lines > 0),
    sealed_at timestamptz not null,
    digest bytea not null, -- of the lines
    previous bytea not null, -- the hash of the batch before
    hash bytea not null,
    mac bytea not null, -- over the hash, by a key that is not in the database
    primary key (workspace_id, number)
);

create index audit_batches_seal on vault.audit_batches (seal);

-- All batches that were made together, in a chain of the deployment; its end is written down outside
-- of the database, too. The operator's own.
create table vault.audit_seals (
    workspace_id text not null check (workspace_id = 'operator'),
    number bigint not null check (number > 0),
    sealed_at timestamptz not null,
    batches text not null, -- a line each: workspace, number, hash
    previous bytea not null,
    hash bytea not null,
    mac bytea not null,
    primary key (workspace_id, number)
);

grant select, update on vault.audit_sealing to keyturn_app;
grant select on vault.audit_sealing to keyturn_worker;
grant select, insert on vault.audit_batches to keyturn_app;
grant select, insert on vault.audit_seals to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array['audit_batches', 'audit_seals'] loop
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

-- A worker finds who has lines that are not sealed, and which batches were made together.
grant select (workspace_id, at, xact) on vault.audit_events to keyturn_worker;
create policy worker on vault.audit_events for select to keyturn_worker using (true);
grant select (workspace_id, number, seal, hash) on vault.audit_batches to keyturn_worker;
create policy worker on vault.audit_batches for select to keyturn_worker using (true);
