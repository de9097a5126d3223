-- The processes of this deployment, and how far it has come. Global: these cross no workspace's rows.

-- name: join
insert into vault.replicas (replica_id, lock_key, locked)
values (:replica_id, :lock_key, :locked)
on conflict (replica_id) do update set lock_key = excluded.lock_key, locked = excluded.locked, seen_at = now()
returning replica_id as id;

-- name: beat
update vault.replicas
   set seen_at = now(), locked = :locked, lock_key = :lock_key
 where replica_id = :replica_id
returning replica_id as id;

-- name: leave
delete from vault.replicas
 where replica_id = :replica_id
returning replica_id as id;

-- name: forget_old
delete from vault.replicas
 where seen_at < now() - interval '1 day'
returning replica_id as id;

-- name: list
select replica_id, lock_key, locked, seen_at > now() - :silence::interval as heard
  from vault.replicas;

-- name: moment
-- Now, since when this server runs, how far the deployment has come; where this database is said to
-- be, and where it is: a copy is in another cluster, or its tables are others.
select now() as now, pg_postmaster_start_time() as server_started_at, h.mark, h.epoch, h.place,
       h.folder,
       (select c.system_identifier::text from pg_catalog.pg_control_system() c)
           || '/' || (select d.oid::text from pg_catalog.pg_database d where d.datname = current_database())
           || '/' || h.tableoid::text as here
  from vault.high_water h;

-- name: settle
-- Who comes first says where it is.
update vault.high_water
   set place = :place, folder = :folder
 where place is null
returning mark, epoch;

-- name: advance
update vault.high_water
   set mark = mark + 1
returning mark, epoch;
