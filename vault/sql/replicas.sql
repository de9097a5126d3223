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
-- Now, since when this server runs, and how far the deployment has come.
select now() as now, pg_postmaster_start_time() as server_started_at,
       (select mark from vault.high_water) as mark;

-- name: advance
update vault.high_water
   set mark = mark + 1
returning mark;
