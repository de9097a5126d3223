-- What signs for a workspace.

-- name: current
-- The newest whose time has come; due when it has signed for long, and none is on its way.
select k.key_id, k.sealed,
       k.signs_from < now() - :seconds::integer * interval '1 second'
       and not exists (select 1
                         from vault.signing_keys n
                        where n.workspace_id = :workspace_id and n.signs_from > now()) as due
  from vault.signing_keys k
 where k.workspace_id = :workspace_id and k.signs_from <= now()
 order by k.signs_from desc, k.key_id desc
 limit 1;

-- name: published
-- What signs, what will, and what did a short while ago.
select k.key_id, k.public_x
  from vault.signing_keys k
 where k.workspace_id = :workspace_id
   and not exists (select 1
                     from vault.signing_keys n
                    where n.workspace_id = :workspace_id
                      and n.signs_from > k.signs_from
                      and n.signs_from < now() - :seconds::integer * interval '1 second')
 order by k.key_id;

-- name: insert
insert into vault.signing_keys (workspace_id, key_id, public_x, sealed, signs_from, created_by)
values (:workspace_id, :key_id, :public_x, :sealed,
        now() + :seconds::integer * interval '1 second', :created_by);

-- name: forget_old
-- What nobody needs to verify any more.
delete from vault.signing_keys k
 where k.workspace_id = :workspace_id
   and exists (select 1
                 from vault.signing_keys n
                where n.workspace_id = :workspace_id
                  and n.signs_from > k.signs_from
                  and n.signs_from < now() - :seconds::integer * interval '1 second');

-- name: forget_others
delete from vault.signing_keys
 where workspace_id = :workspace_id and key_id <> :key_id;
