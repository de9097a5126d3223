-- The roles of the deployment; made once by a login that may create roles.
-- owner:  owns the schema; nobody logs in as it while the service runs
-- app:    what the service is; bound by row-level security
-- worker: what the refreshing process is; bound too, with a few policies of its own
-- auth:   owns the look-up of bearers; nobody logs in as it
-- mint:   owns the functions that mint by the batch; nobody logs in as it
-- backup: reads everything, sealed as it is, for pg_dump
do $$
declare
    wanted text;
begin
    foreach wanted in array array['keyturn_owner', 'keyturn_app', 'keyturn_worker', 'keyturn_auth', 'keyturn_mint'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    if not exists (select from pg_roles where rolname = 'keyturn_backup') then
        create role keyturn_backup nologin bypassrls;
    end if;
end
$$;

grant keyturn_auth, keyturn_mint to keyturn_owner;
grant keyturn_owner to current_user;

do $$
begin
    execute format('grant create on database %I to keyturn_owner', current_database());
end
$$;
