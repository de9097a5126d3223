-- What signs a workspace's sealed tokens, so that a runtime need not ask us who sent one.

create table vault.signing_keys (
    workspace_id text not null references vault.workspaces on delete cascade,
    key_id text not null,
    public_x text not null, -- the public half (RFC 8037), which everybody may read
    sealed bytea not null, -- the private one
    signs_from timestamptz not null, -- published ahead of that; the newest that may signs
    created_at timestamptz not null default now(),
    created_by text not null,
    primary key (workspace_id, key_id)
);

grant select, insert, delete on vault.signing_keys to keyturn_app;
-- What is sealed is sealed again under a newer key, in its place.
grant update (sealed) on vault.signing_keys to keyturn_app;

alter table vault.signing_keys enable row level security;
alter table vault.signing_keys force row level security;
create policy app on vault.signing_keys to keyturn_app using (true) with check (true);
create policy own_workspace on vault.signing_keys as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));
