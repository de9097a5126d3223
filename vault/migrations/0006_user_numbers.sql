-- Who calls: a user is found by a telephone number, of which only a keyed hash is kept here.

-- Not unique: two users may share a telephone, and then it identifies neither.
create table vault.user_numbers (
    workspace_id text not null,
    user_id text not null,
    number_hash bytea not null check (length(number_hash) = 16), -- keyed by the workspace's own key
    primary key (workspace_id, user_id, number_hash),
    foreign key (workspace_id, user_id) references vault.users on delete cascade
);

create index user_numbers_hash on vault.user_numbers (workspace_id, number_hash);

grant select, insert, delete on vault.user_numbers to keyturn_app;
alter table vault.user_numbers enable row level security;
alter table vault.user_numbers force row level security;
create policy app on vault.user_numbers to keyturn_app using (true) with check (true);
create policy own_workspace on vault.user_numbers as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));
