-- Conversations: what was minted for one user, one agent and one environment.

-- What was promised stands in `kept`, sealed under the user's own key: no value of it is in clear,
-- and it goes when the user goes. No credential is in there at all: those are read at delivery.
create table vault.conversations (
    workspace_id text not null,
    conversation_id text not null,
    agent_id text not null,
    user_id text not null,
    environment text not null,
    runtime text not null check (runtime in ('elevenlabs', 'livekit', 'sealed')),
    channel text not null check (channel in ('websocket', 'webrtc', 'telephone')),
    delivery text not null check (delivery in ('inline', 'relay', 'handle', 'server', 'sealed')),
    branch_id text not null, -- empty: the agent's main one
    key_id text not null, -- of the API key that minted it; bearers die with that key
    connection_ids text[] not null, -- the only ones that it can ever reach
    kept bytea not null, -- sealed under the user's own key
    state text not null default 'prepared' check (state in ('prepared', 'started', 'ended')),
    armed boolean not null, -- false: a telephone call that nobody has vouched for yet
    upstream_id text, -- what the runtime calls it
    bearer_kind text check (bearer_kind in ('grant', 'handle')),
    bearer_hash bytea check (length(bearer_hash) = 32), -- keyed; the bearer is stored nowhere
    ticket_hash bytea check (length(ticket_hash) = 32), -- keyed; gone once it was used
    created_at timestamptz not null default now(),
    start_by timestamptz not null,
    started_at timestamptz,
    expires_at timestamptz not null,
    ended_at timestamptz,
    primary key (workspace_id, conversation_id),
    foreign key (workspace_id, user_id) references vault.users on delete cascade
) with (fillfactor = 80);

create index conversations_user on vault.conversations (workspace_id, user_id, conversation_id);
create index conversations_agent on vault.conversations (workspace_id, agent_id, conversation_id);
create index conversations_upstream on vault.conversations (workspace_id, upstream_id)
    where upstream_id is not null;
-- Not unique, so that the table can be spread by workspace: the hashes are of 256 random bits.
create index conversations_bearer on vault.conversations (bearer_hash) where bearer_hash is not null;
create index conversations_ticket on vault.conversations (ticket_hash) where ticket_hash is not null;

grant select, insert, update, delete on vault.conversations to keyturn_app;
alter table vault.conversations enable row level security;
alter table vault.conversations force row level security;
create policy app on vault.conversations to keyturn_app using (true) with check (true);
create policy own_workspace on vault.conversations as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'))
    with check (workspace_id = current_setting('keyturn.workspace'));

-- A grant, a handle and a ticket name their workspace only once they are found, like an API key.
-- The row of the key that minted is joined, so that revoking it needs no notification. What kind is
-- asked for is in the call: a ticket never opens what a grant opens.
grant select (workspace_id, conversation_id, key_id, bearer_kind, bearer_hash, ticket_hash, start_by,
              expires_at, ended_at)
    on vault.conversations to keyturn_auth;
create policy lookup_bearer on vault.conversations for select to keyturn_auth using (true);

create function vault.lookup_conversation(bearer_hash bytea, bearer_kind text)
returns table (workspace_id text, conversation_id text, hash bytea)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    with found as (
        select c.workspace_id, c.conversation_id, c.key_id, c.bearer_hash as hash
          from vault.conversations c
         where $2 in ('grant', 'handle') and c.bearer_hash = $1 and c.bearer_kind = $2
           and c.ended_at is null and c.expires_at > now()
        union all
        select c.workspace_id, c.conversation_id, c.key_id, c.ticket_hash
          from vault.conversations c
         where $2 = 'ticket' and c.ticket_hash = $1
           and c.ended_at is null and c.start_by > now()
    )
    select f.workspace_id, f.conversation_id, f.hash
      from found f
      join vault.api_keys k on k.workspace_id = f.workspace_id and k.key_id = f.key_id
     where k.expires_at is null or k.expires_at > now();
$$;

grant usage, create on schema vault to keyturn_auth;
alter function vault.lookup_conversation(bytea, text) owner to keyturn_auth;
revoke create on schema vault from keyturn_auth;
revoke all on function vault.lookup_conversation(bytea, text) from public;
grant execute on function vault.lookup_conversation(bytea, text) to keyturn_app;
