-- contracts: needs 0004, since what read by the index of leases reads the table without it: slower,
-- and only once a second, until the last replica of the version before is gone.
-- A claim changes nothing any more that stands in an index, so it writes to none. What a dead
-- replica was at is found by what it claimed.

drop index vault.connection_lives_leased;

-- What each transaction has claimed. It is of interest until its leases end at the latest, and goes
-- with a later claim of its workspace.
create table vault.claims (
    workspace_id text not null,
    attempt text not null, -- that of the first of them
    owner text not null, -- the replica
    connection_ids text[] not null,
    at timestamptz not null default now(),
    primary key (workspace_id, attempt),
    foreign key (workspace_id) references vault.workspaces on delete cascade
);
create index claims_at on vault.claims (at);

grant select, insert, delete on vault.claims to keyturn_app;
alter table vault.claims enable row level security;
alter table vault.claims force row level security;
create policy app on vault.claims to keyturn_app using (true) with check (true);
create policy own_workspace on vault.claims as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));

-- The worker finds what the dead have left in all workspaces.
grant select (workspace_id, owner, connection_ids, at) on vault.claims to keyturn_worker;
create policy worker on vault.claims for select to keyturn_worker using (true);
grant select (lease_until) on vault.connection_lives to keyturn_worker;
