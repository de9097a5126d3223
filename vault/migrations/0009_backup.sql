-- Backups that keep what was deleted deleted, and a mark that tells a copy from its original.

-- What was deleted for good. A backup from before still has it, and whoever restores one deletes it
-- again by this list. Keyed hashes and dates; global, holds nothing that leads to a person.
create table vault.shreddings (
    hash bytea not null check (length(hash) = 32),
    at timestamptz not null default now(),
    primary key (hash)
);
create index shreddings_at on vault.shreddings (at);

grant select, insert on vault.shreddings to keyturn_app;
grant select on vault.schema_migrations to keyturn_backup; -- older than what it is given by default

alter table vault.high_water
    add column epoch bigint not null default 0, -- how often somebody went on from an older state
    add column place text, -- where this database is; null: nobody has looked yet
    add column folder text; -- the same of an embedded one's folder
