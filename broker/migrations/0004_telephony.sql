-- Telephone: where a call to or from a workspace's own number runs.

-- What is known of the numbers that live in the workspace's account.
create table vault.phone_numbers (
    workspace_id text not null references vault.workspaces on delete cascade,
    phone_number_id text not null, -- as the account calls it
    number text not null, -- the workspace's own, as it is dialled; of no person
    environment text, -- null: production
    branch_id text, -- null: the agent's main one
    updated_at timestamptz not null default now(),
    primary key (workspace_id, phone_number_id)
);

create index phone_numbers_number on vault.phone_numbers (workspace_id, number);

grant select, insert, update, delete on vault.phone_numbers to keyturn_app;
alter table vault.phone_numbers enable row level security;
alter table vault.phone_numbers force row level security;
create policy app on vault.phone_numbers to keyturn_app using (true) with check (true);
create policy own_workspace on vault.phone_numbers as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));
