-- The ground floor: workspaces, their keys, API keys, users, the audit record.
--
-- Rules that hold for every table here, checked by tests/migrations/test_catalogue.py:
-- workspace_id leads every primary, unique and foreign key; row-level security is enabled and
-- forced; the application's policy is restrictive, so that a later permissive one cannot widen it.

-- One row: what this deployment is. Global; holds nothing of any workspace.
create table vault.deployment (
    singleton boolean primary key default true check (singleton),
    deployment_id text not null,
    pepper bytea not null, -- wrapped by the root key; keys the hashes of bearers
    root_key_id text not null,
    created_at timestamptz not null default now()
);

create table vault.workspaces (
    workspace_id text not null check (workspace_id ~ '^ws_[0-9a-z]{26}$'),
    name text not null,
    created_at timestamptz not null default now(),
    primary key (workspace_id)
);

-- The workspace's keys, wrapped by the root key. Deleting them shreds the workspace.
create table vault.workspace_keys (
    workspace_id text not null references vault.workspaces on delete cascade,
    key_id bytea not null check (length(key_id) = 16),
    version integer not null check (version > 0),
    state text not null check (state in ('staged', 'active', 'retired')), -- staged -> active -> retired
    wrapped bytea not null,
    root_key_id text not null,
    created_at timestamptz not null default now(),
    primary key (workspace_id, key_id),
    unique (workspace_id, version)
);

-- The key of the blind indexes. It outlives rotations of the workspace's key: an index made
-- yesterday must still be found tomorrow.
create table vault.index_keys (
    workspace_id text not null references vault.workspaces on delete cascade,
    sealed bytea not null,
    primary key (workspace_id)
);

create table vault.api_keys (
    workspace_id text not null references vault.workspaces on delete cascade,
    key_id text not null,
    hash bytea not null check (length(hash) = 32), -- keyed; the key itself is stored nowhere
    name text not null,
    scopes text[] not null,
    environments text[] not null, -- empty: all of them
    created_at timestamptz not null default now(),
    created_by text not null,
    expires_at timestamptz,
    last_used_at timestamptz, -- to the minute
    primary key (workspace_id, key_id)
) with (fillfactor = 80);

-- Not unique, so that the table can be spread by workspace: the hash is of 256 random bits.
create index api_keys_hash on vault.api_keys (hash);

create table vault.users (
    workspace_id text not null references vault.workspaces on delete cascade,
    user_id text not null,
    generation bigint not null check (generation > 0),
    profile bytea not null, -- sealed under the user's own key
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (workspace_id, user_id)
) with (fillfactor = 80);

-- One ingredient of every key that seals this user's rows. Deleting it shreds the user.
create table vault.user_keys (
    workspace_id text not null,
    user_id text not null,
    sealed bytea not null,
    primary key (workspace_id, user_id),
    foreign key (workspace_id, user_id) references vault.users on delete cascade
);

-- What an Idempotency-Key has already done. Kept for a day; holds no secret.
create table vault.idempotency (
    workspace_id text not null, -- or 'operator', for the operator's own requests
    caller text not null,
    key_hash bytea not null,
    fingerprint bytea not null,
    result bytea not null,
    created_at timestamptz not null default now(),
    primary key (workspace_id, caller, key_hash)
);

-- Who did what. Appended to, never changed; it outlives the workspace it speaks of.
create table vault.audit_events (
    workspace_id text not null,
    event_id text not null,
    at timestamptz not null default now(),
    actor_kind text not null,
    actor_id text not null,
    action text not null,
    target_kind text not null,
    target_id text not null,
    user_ref text not null, -- a pseudonym, or empty
    environment text not null,
    outcome text not null,
    request_id text not null,
    primary key (workspace_id, event_id)
);

create index audit_events_user on vault.audit_events (workspace_id, user_ref, event_id)
    where user_ref <> '';

-- What the application may do. Rows of other workspaces do not exist for it.
grant select, insert on vault.deployment to keyturn_app;
grant select, insert, delete on vault.workspaces to keyturn_app;
grant select, insert, update, delete on vault.workspace_keys to keyturn_app;
grant select, insert, update on vault.index_keys to keyturn_app;
grant select, insert, delete on vault.api_keys to keyturn_app;
grant select, insert, update, delete on vault.users to keyturn_app;
grant select, insert, delete on vault.user_keys to keyturn_app;
grant select, insert, update, delete on vault.idempotency to keyturn_app;
grant select, insert on vault.audit_events to keyturn_app;

do $$
declare
    workspace_table text;
begin
    foreach workspace_table in array array[
        'workspaces', 'workspace_keys', 'index_keys', 'api_keys', 'users', 'user_keys',
        'idempotency', 'audit_events'
    ] loop
        execute format('alter table vault.%I enable row level security', workspace_table);
        execute format('alter table vault.%I force row level security', workspace_table);
        execute format('create policy app on vault.%I to keyturn_app using (true) with check (true)', workspace_table);
        if workspace_table <> 'workspaces' then
            execute format(
                'create policy own_workspace on vault.%I as restrictive to keyturn_app '
                'using (workspace_id = current_setting(''keyturn.workspace'')) '
                'with check (workspace_id = current_setting(''keyturn.workspace''))', workspace_table);
        end if;
    end loop;
end
$$;

-- The operator's directory: names and dates of all workspaces, to read only.
create policy own_workspace on vault.workspaces as restrictive to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace')
           or current_setting('keyturn.workspace') = 'operator')
    with check (workspace_id = current_setting('keyturn.workspace'));
create policy own_workspace_delete on vault.workspaces as restrictive for delete to keyturn_app
    using (workspace_id = current_setting('keyturn.workspace'));

-- A bearer names its workspace only once it is found, so this look-up crosses workspaces. It runs
-- as a role that can read and touch nothing else, and finds only who holds the whole hash.
grant select (workspace_id, key_id, hash, scopes, environments, expires_at, last_used_at),
      update (last_used_at) on vault.api_keys to keyturn_auth;
create policy lookup_bearer on vault.api_keys to keyturn_auth using (true) with check (true);

create function vault.lookup_bearer(bearer_hash bytea)
returns table (workspace_id text, key_id text, hash bytea, scopes text[], environments text[], expires_at timestamptz)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    update vault.api_keys set last_used_at = now()
     where hash = bearer_hash
       and (expires_at is null or expires_at > now())
       and (last_used_at is null or last_used_at < now() - interval '1 minute');
    select k.workspace_id, k.key_id, k.hash, k.scopes, k.environments, k.expires_at
      from vault.api_keys k
     where k.hash = bearer_hash
       and (k.expires_at is null or k.expires_at > now());
$$;

grant usage, create on schema vault to keyturn_auth;
alter function vault.lookup_bearer(bytea) owner to keyturn_auth;
revoke create on schema vault from keyturn_auth;
revoke all on function vault.lookup_bearer(bytea) from public;
grant execute on function vault.lookup_bearer(bytea) to keyturn_app;
