-- The numbers of a workspace's account, and where their calls run.

-- name: keep
insert into vault.phone_numbers (workspace_id, phone_number_id, number, environment, branch_id)
values (:workspace_id, :phone_number_id, :number, :environment, :branch_id)
on conflict (workspace_id, phone_number_id) do update
   set number = excluded.number, environment = excluded.environment,
       branch_id = excluded.branch_id, updated_at = now()
 where (phone_numbers.number, phone_numbers.environment, phone_numbers.branch_id)
       is distinct from (excluded.number, excluded.environment, excluded.branch_id);

-- name: get
select phone_number_id, number, environment, branch_id
  from vault.phone_numbers
 where workspace_id = :workspace_id and phone_number_id = :phone_number_id;

-- name: dialled
-- One that was given up and taken again has a new id: the newest is the one that rings.
select phone_number_id, number, environment, branch_id
  from vault.phone_numbers
 where workspace_id = :workspace_id and number = :number
 order by updated_at desc, phone_number_id desc
 limit 1;

-- name: forget
delete from vault.phone_numbers
 where workspace_id = :workspace_id and phone_number_id = :phone_number_id;

-- name: forget_all
-- The account that they live in is another one now, or gone.
delete from vault.phone_numbers
 where workspace_id = :workspace_id;
