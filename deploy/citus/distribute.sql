-- Spreads Keyturn's schema over a Citus cluster by workspace. Run it as a superuser, on the
-- coordinator, after each 'keyturn migrate': what is spread already stays as it is.
--
-- * Every table of a workspace is distributed by workspace_id and stands beside vault.workspaces, so
--   what belongs to one workspace lies on one node: its statements, joins and foreign keys stay there.
-- * What a foreign key leads to goes first.
-- * Tables of no workspace stay where they are, on the coordinator. No statement joins them with
--   others, so they need not be reference tables, which would be written on every node.
--
-- docs/howto/citus.md says what is known of this, and what is not.

do $$
declare
    part record;
    spread boolean;
begin
    if to_regclass('pg_dist_partition') is null then
        raise exception 'Citus is not in this database: create extension citus';
    end if;
    if to_regclass('vault.workspaces') is null then
        raise exception 'There is no schema to spread yet: run keyturn migrate';
    end if;
    for part in
        with recursive
        belongs as (
            select c.oid
              from pg_class c
              join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id'
             where c.relnamespace = 'vault'::regnamespace and c.relkind = 'r'
               and not a.attisdropped
        ),
        -- How far a table is from those that lead nowhere.
        depths (oid, depth) as (
            select oid, 0
              from belongs
            union
            select f.conrelid, d.depth + 1
              from pg_constraint f
              join depths d on d.oid = f.confrelid
             where f.contype = 'f' and f.conrelid <> f.confrelid
        )
        select oid::regclass as name, max(depth) as depth
          from depths
         group by oid
         order by oid <> 'vault.workspaces'::regclass, max(depth), oid::regclass::text
    loop
        execute 'select exists (select from pg_dist_partition where logicalrelid = $1)'
           into spread using part.name;
        if spread then
            continue;
        end if;
        if part.name = 'vault.workspaces'::regclass then
            perform create_distributed_table(part.name, 'workspace_id');
        else
            perform create_distributed_table(
                part.name, 'workspace_id', colocate_with => 'vault.workspaces'
            );
        end if;
    end loop;
end
$$;
