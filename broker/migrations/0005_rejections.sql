-- Which token of which connection a conversation has said that the provider's API refused: that
-- forces one refresh, and saying it again forces none.

create table vault.token_rejections (
    workspace_id text not null,
    conversation_id text not null,
    connection_id text not null,
    generation bigint not null, -- the newest that was refused
    rejected_at timestamptz not null default now(),
    primary key (workspace_id, conversation_id, connection_id),
    foreign key (workspace_id, conversation_id) references vault.conversations on delete cascade
);

grant select, insert, update on vault.token_rejections to keyturn_app;
alter table vault.token_rejections enable row level security;
alter table vault.token_rejections force row level security;
create policy app on vault.token_rejections to keyturn_app using (true) with check (true);
create policy own_workspace on vault.token_rejections as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));
