-- An end for old lines of the audit record: what was sealed long ago is deleted together with its
-- batches and seals, and a signed note says where a chain begins since.

-- Of each workspace's chain of batches, and of the operator's chain of seals, the last that is gone.
-- It outlives the workspace, as its lines do.
create table vault.audit_notes (
    workspace_id text not null,
    chain text not null check (chain in ('batches', 'seals')),
    number bigint not null check (number > 0),
    to_xact bigint not null, -- where the first line stands that is kept
    to_event text not null,
    lines bigint not null, -- how many are gone
    noted_at timestamptz not null,
    last bytea not null, -- the hash of the last one
    hash bytea not null,
    mac bytea not null,
    primary key (workspace_id, chain)
);

grant select, insert, update on vault.audit_notes to keyturn_app;
alter table vault.audit_notes enable row level security;
alter table vault.audit_notes force row level security;
create policy app on vault.audit_notes to keyturn_app using (true) with check (true);
create policy own_workspace on vault.audit_notes as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));

-- The worker deletes, and nothing that is younger than thirty days, whatever it is told.
grant select (event_id), delete on vault.audit_events to keyturn_worker;
create policy worker_forgets on vault.audit_events for delete to keyturn_worker
    using (at < now() - interval '30 days');
grant select (sealed_at), delete on vault.audit_batches to keyturn_worker;
create policy worker_forgets on vault.audit_batches for delete to keyturn_worker
    using (sealed_at < now() - interval '30 days');
grant select (workspace_id, number, sealed_at), delete on vault.audit_seals to keyturn_worker;
create policy worker on vault.audit_seals for select to keyturn_worker using (true);
create policy worker_forgets on vault.audit_seals for delete to keyturn_worker
    using (sealed_at < now() - interval '30 days');
-- Who looks at a seal has to know which of its batches are gone with good reason.
grant select (workspace_id, chain, number) on vault.audit_notes to keyturn_worker;
create policy worker on vault.audit_notes for select to keyturn_worker using (true);
