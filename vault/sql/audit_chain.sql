-- The sealed chain of the audit record.

-- name: position
-- How far the record has been sealed, and how far it could be: every transaction below the horizon
-- has ended. `here` is the server that counts now.
select s.seal, s.sealed_to, s.server,
       (select system_identifier::text from pg_control_system()) as here,
       s.shift + pg_snapshot_xmin(pg_current_snapshot())::text::bigint as horizon
  from vault.audit_sealing s;

-- name: take
-- One replica at a time; if it dies, the next one waits for the end. The lease is what versions
-- before 0010 took, which know nothing of lines that name connections: it is given to nobody.
update vault.audit_sealing
   set turn_owner = :owner, turn_until = now() + :seconds::integer * interval '1 second'
 where turn_until is null or turn_until <= now() or turn_owner = :owner
returning seal;

-- name: hold
-- It is still ours, and stays so until this transaction has ended.
select s.seal, now() as now
  from vault.audit_sealing s
 where s.turn_owner = :owner and s.seal = :seal
   for share;

-- name: finish
-- No batch is made for this seal any more.
update vault.audit_sealing
   set seal = seal + 1, sealed_to = :sealed_to
 where turn_owner = :owner and seal = :seal
returning seal;

-- name: release
update vault.audit_sealing
   set turn_until = null
 where turn_owner = :owner
returning seal;

-- name: waiting
-- crosses workspaces: the worker finds who has lines to seal, and sees no more of them
select distinct e.workspace_id
  from vault.audit_events e
 where e.xact >= :sealed_to and e.xact < :horizon;

-- name: everybody
-- crosses workspaces: the worker finds whose record there is, and sees no more of it
-- Goes from workspace to workspace in the index, however many lines each has.
with recursive one as (
    (select e.workspace_id from vault.audit_events e order by e.workspace_id limit 1)
    union all
    select n.workspace_id
      from one,
           lateral (select e.workspace_id from vault.audit_events e
                     where e.workspace_id > one.workspace_id
                     order by e.workspace_id
                     limit 1) n
)
select workspace_id from one;

-- name: everybody_sealed
-- crosses workspaces: the worker finds who has a chain, and sees no more of it
with recursive one as (
    (select b.workspace_id from vault.audit_batches b order by b.workspace_id limit 1)
    union all
    select n.workspace_id
      from one,
           lateral (select b.workspace_id from vault.audit_batches b
                     where b.workspace_id > one.workspace_id
                     order by b.workspace_id
                     limit 1) n
)
select workspace_id from one;

-- name: unsealed
-- crosses workspaces: the worker counts lines, and sees no more than their time
select count(*) as lines,
       coalesce(extract(epoch from now() - min(e.at)), 0)::double precision as seconds
  from vault.audit_events e
 where e.xact >= :sealed_to;

-- name: made_for
-- crosses workspaces: the worker lists which batches were made together, by their hashes
select b.seal, b.workspace_id, b.number, b.hash
  from vault.audit_batches b
 where b.seal between :first and :last;

-- name: old_seal
-- The newest seal that is older than so many days, but for the last: the chain goes on from that.
select s.number
  from vault.audit_seals s
 where s.workspace_id = :workspace_id
   and s.sealed_at < now() - :days::integer * interval '1 day'
   and s.number < (select max(l.number) from vault.audit_seals l where l.workspace_id = :workspace_id)
 order by s.number desc
 limit 1;

-- name: made_up_to
-- crosses workspaces: the worker finds whose chain has batches of old seals, and sees no more of them
select distinct b.workspace_id
  from vault.audit_batches b
 where b.seal <= :seal;

-- name: last_batch_up_to
select number, seal, from_xact, from_event, to_xact, to_event, first, lines, sealed_at, digest, previous, hash, mac
  from vault.audit_batches
 where workspace_id = :workspace_id and seal <= :seal
 order by number desc
 limit 1;

-- name: note
select chain, number, to_xact, to_event, lines, noted_at, last, hash, mac
  from vault.audit_notes
 where workspace_id = :workspace_id and chain = :chain;

-- name: noted
-- crosses workspaces: the worker lists up to which batch whose chain is gone
select n.workspace_id, n.number
  from vault.audit_notes n
 where n.chain = 'batches';

-- name: write_note
-- Never back to an earlier one: another replica may have gone further meanwhile.
insert into vault.audit_notes as n
       (workspace_id, chain, number, to_xact, to_event, lines, noted_at, last, hash, mac)
values (:workspace_id, :chain, :number, :to_xact, :to_event, :lines, :noted_at, :last, :hash, :mac)
on conflict (workspace_id, chain) do update
   set number = excluded.number, to_xact = excluded.to_xact, to_event = excluded.to_event,
       lines = excluded.lines, noted_at = excluded.noted_at, last = excluded.last,
       hash = excluded.hash, mac = excluded.mac
 where n.number < excluded.number;

-- name: forget_lines
-- The oldest first, and no more than one statement can take.
delete from vault.audit_events e
 where e.workspace_id = :workspace_id
   and e.event_id in (select o.event_id
                        from vault.audit_events o
                       where o.workspace_id = :workspace_id
                         and (o.xact, o.event_id collate "C") < (:to_xact, :to_event)
                       order by o.xact, o.event_id collate "C"
                       limit :limit)
returning e.event_id;

-- name: forget_batches
delete from vault.audit_batches b
 where b.workspace_id = :workspace_id and b.number <= :number
returning b.number;

-- name: forget_seals
delete from vault.audit_seals s
 where s.workspace_id = :workspace_id and s.number <= :number
returning s.number;

-- name: last_batch
select number, seal, from_xact, from_event, to_xact, to_event, first, lines, sealed_at, digest, previous, hash, mac
  from vault.audit_batches
 where workspace_id = :workspace_id
 order by number desc
 limit 1;

-- name: batches
select number, seal, from_xact, from_event, to_xact, to_event, first, lines, sealed_at, digest, previous, hash, mac
  from vault.audit_batches
 where workspace_id = :workspace_id and number > :after
 order by number
 limit :limit;

-- name: lines
-- From one place up to, and without, another.
select event_id, at, actor_kind, actor_id, action, target_kind, target_id, user_ref, environment,
       outcome, request_id, xact, connection_ids
  from vault.audit_events
 where workspace_id = :workspace_id
   and (xact, event_id collate "C") >= (:from_xact, :from_event)
   and (xact, event_id collate "C") < (:to_xact, :to_event)
 order by xact, event_id collate "C"
 limit :limit;

-- name: insert_batch
insert into vault.audit_batches
       (workspace_id, number, seal, from_xact, from_event, to_xact, to_event, first, lines, sealed_at,
        digest, previous, hash, mac)
values (:workspace_id, :number, :seal, :from_xact, :from_event, :to_xact, :to_event, :first, :lines, :sealed_at,
        :digest, :previous, :hash, :mac);

-- name: last_seal
select number, sealed_at, batches, previous, hash, mac
  from vault.audit_seals
 where workspace_id = :workspace_id
 order by number desc
 limit 1;

-- name: seals
select number, sealed_at, batches, previous, hash, mac
  from vault.audit_seals
 where workspace_id = :workspace_id and number > :after
 order by number
 limit :limit;

-- name: insert_seal
insert into vault.audit_seals (workspace_id, number, sealed_at, batches, previous, hash, mac)
values (:workspace_id, :number, :sealed_at, :batches, :previous, :hash, :mac)
on conflict (workspace_id, number) do nothing;
