-- Rotating keys while everybody works: what is new is announced, and only what every replica can
-- open is written with.

-- A rotation of keys. Global; holds nothing of any workspace.
create table vault.rotations (
    rotation bigint primary key,
    kind text not null check (kind in ('root', 'workspaces')),
    root_key_id text not null, -- the root key that wraps what is new
    probe bytea not null, -- wrapped by it: who unwraps this can unwrap the rest
    announced bigint not null default 0, -- which question the replicas have to answer; 0: none yet
    began_at timestamptz not null default now(),
    switched_at timestamptz, -- from here on it is written with
    finished_at timestamptz
);

alter table vault.replicas
    add column ready_for bigint not null default 0, -- the last question that it could answer
    add column refuses text; -- why it cannot answer the present one

alter table vault.workspace_keys
    add column retired_at timestamptz;

-- Which root key wraps is what stands in this row, whichever the replicas' settings name first.
grant update (pepper, root_key_id) on vault.deployment to keyturn_app;
grant select, insert, update on vault.rotations to keyturn_app;
-- What is sealed is sealed again under a newer key, in its place.
grant update (sealed) on vault.user_keys to keyturn_app;
grant update (sealed) on vault.revocation_tokens to keyturn_app;
grant update (sealed) on vault.refresh_answers to keyturn_app;
