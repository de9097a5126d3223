-- Rotations of keys, and who is ready for them. Global: these cross no workspace's rows.

-- name: under_way
select rotation, kind, root_key_id, probe, began_at, switched_at
  from vault.rotations
 where finished_at is null
 order by rotation
 limit 1;

-- name: begin
-- One at a time; whoever comes second finds the first.
insert into vault.rotations (rotation, kind, root_key_id, probe)
select coalesce(max(r.rotation), 0) + 1, :kind::text, :root_key_id::text, :probe::bytea
  from vault.rotations r
having bool_and(r.finished_at is not null) is not false
on conflict (rotation) do nothing
returning rotation as number;

-- name: announce
update vault.rotations
   set announced = :announced
 where rotation = :rotation and finished_at is null
returning rotation as number;

-- name: last_announced
select coalesce(max(announced), 0) as number
  from vault.rotations;

-- name: switch
update vault.rotations
   set switched_at = coalesce(switched_at, now())
 where rotation = :rotation and finished_at is null
returning rotation as number;

-- name: finish
update vault.rotations
   set finished_at = now()
 where rotation = :rotation and finished_at is null
returning rotation as number;

-- name: question
-- What every replica should be able to open by now.
select announced, root_key_id, probe, kind, switched_at is not null as switched,
       finished_at is not null as finished
  from vault.rotations
 where announced > 0
 order by announced desc
 limit 1;

-- name: answer
update vault.replicas
   set ready_for = case when :refuses::text is null then :announced::bigint else ready_for end,
       refuses = :refuses
 where replica_id = :replica_id
returning replica_id as id;

-- name: behind
-- Who has not answered yet; whether it lives, its lock and its last line tell.
select replica_id, lock_key, locked, seen_at > now() - :silence::interval as heard, refuses
  from vault.replicas
 where ready_for < :announced;

-- name: wraps_by
-- The root key that wraps in this deployment.
select root_key_id
  from vault.deployment;

-- name: pepper
select pepper, root_key_id
  from vault.deployment;

-- name: rewrap_pepper
update vault.deployment
   set pepper = :pepper, root_key_id = :root_key_id
 where pepper = :before
returning root_key_id;
