-- Fewer rows a conversation: one that says what it holds, and one line in the record that says which
-- connections' tokens it was given.

-- Who holds which generations of a user's tokens, so that no refresh takes them away for nothing.
-- What the version before has written stands in vault.connection_holds until it is over: whoever
-- asks reads both, and nobody adds to that any more.
create table vault.holds (
    workspace_id text not null,
    user_id text not null,
    holder text not null, -- a conversation
    held jsonb not null, -- by connection, the generation in decimal
    held_until timestamptz not null,
    primary key (workspace_id, user_id, holder),
    foreign key (workspace_id, user_id) references vault.users on delete cascade
);

grant select, insert, update, delete on vault.holds to keyturn_app;
alter table vault.holds enable row level security;
alter table vault.holds force row level security;
create policy app on vault.holds to keyturn_app using (true) with check (true);
create policy own_workspace on vault.holds as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));

-- By it whoever refreshes finds what is held. Null where the version before made the row: whoever
-- writes down that he holds its tokens fills it.
alter table vault.connection_lives add column of_user text;

-- Whose tokens were handed out with the deed of a line, where that is no line of its own.
alter table vault.audit_events add column connection_ids text[] not null default '{}';

-- A replica of the version before would seal such lines without that column: it does not get the
-- turn any more. Whoever knows the column takes turns by these.
alter table vault.audit_sealing
    add column turn_owner text,
    add column turn_until timestamptz;
update vault.audit_sealing set lease_owner = 'a newer version', lease_until = 'infinity';
