-- What the migration runner itself needs; made before the first migration.
create schema if not exists vault;
create table if not exists vault.schema_lock (singleton boolean primary key default true check (singleton));
insert into vault.schema_lock values (true) on conflict do nothing;
create table if not exists vault.schema_migrations (
    part text not null default 'vault',
    version integer not null,
    name text not null,
    sha256 text not null,
    app_version text not null,
    applied_at timestamptz not null default now(),
    needs integer,
    primary key (part, version)
);

-- Before the broker had tables of its own there was one part, and nobody named it.
do $$
begin
    if not exists (select from pg_attribute
                    where attrelid = 'vault.schema_migrations'::regclass and attname = 'part') then
        alter table vault.schema_migrations
            add column part text not null default 'vault',
            drop constraint schema_migrations_pkey,
            add primary key (part, version);
    end if;
end
$$;

-- Code that knows less than this version of the part does not run on the schema any more.
alter table vault.schema_migrations add column if not exists needs integer;

grant usage on schema vault to keyturn_app, keyturn_worker, keyturn_backup;
grant select on vault.schema_migrations to keyturn_app, keyturn_worker;
alter default privileges in schema vault grant select on tables to keyturn_backup;
