-- What was deleted for good, by keyed hashes. Global: these cross no workspace's rows.

-- name: insert
insert into vault.shreddings (hash)
values (:hash)
on conflict (hash) do nothing;

-- name: merge
-- From files outside of the database.
insert into vault.shreddings (hash, at)
select n.hash, n.at
  from unnest(:hashes::bytea[], :times::timestamptz[]) as n (hash, at)
on conflict (hash) do nothing;

-- name: since
-- In the order of their times; what commits late is looked at again.
select hash, at
  from vault.shreddings
 where at > :since or (at = :since and hash > :after)
 order by at, hash
 limit :limit;

-- name: known
select hash, at
  from vault.shreddings
 where hash = any(:hashes::bytea[]);
