-- What there is of users, before anything is handed out.

-- name: user
-- What is known of one user, and where he is connected: in this environment, or in production where
-- the integration shares its connections. With the key that seals now: while keys are rotated there
-- is more than one that is active. One row; none where there is no such user.
select u.generation, u.profile, k.sealed as user_key, w.key_id, w.version, w.wrapped, w.root_key_id,
       x.sealed as index_key, now() as now,
       coalesce(array_agg(c.connection_id) filter (where c.connection_id is not null), '{}') as connection_ids,
       coalesce(array_agg(c.integration) filter (where c.connection_id is not null), '{}') as integrations,
       coalesce(array_agg(c.environment) filter (where c.connection_id is not null), '{}') as environments,
       coalesce(array_agg(l.state) filter (where c.connection_id is not null), '{}') as states
  from vault.users u
  join vault.user_keys k on k.workspace_id = u.workspace_id and k.user_id = u.user_id
  join vault.workspace_keys w
    on w.workspace_id = u.workspace_id
   and w.version = (select max(a.version)
                      from vault.workspace_keys a
                     where a.workspace_id = :workspace_id and a.state = 'active')
  join vault.index_keys x on x.workspace_id = u.workspace_id
  left join vault.connections c
    on c.workspace_id = u.workspace_id and c.user_id = u.user_id
   and (c.environment = :environment
        or (c.environment = 'production'
            and exists (select from vault.integrations i
                         where i.workspace_id = :workspace_id and i.integration = c.integration
                           and i.share_connections)))
  left join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where u.workspace_id = :workspace_id and u.user_id = :user_id
 group by u.generation, u.profile, k.sealed, w.key_id, w.version, w.wrapped, w.root_key_id, x.sealed;

-- name: present
-- Which of these users there are.
select u.user_id
  from vault.users u
 where u.workspace_id = :workspace_id and u.user_id = any(:user_ids::text[]);

-- name: standings
-- How the connections of many users stand.
select c.user_id, c.connection_id, c.integration, c.environment, c.scopes, l.state, l.generation,
       l.verdict, l.issued_at, l.consented_at, l.access_ends, l.idle_ends, l.consent_ends,
       l.renewable, now() as now,
       coalesce((select e.standing
                   from vault.token_endpoints e
                  where e.workspace_id = :workspace_id and e.integration = c.integration
                    and e.environment = c.environment), 'open') as standing
  from vault.connections c
  join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where c.workspace_id = :workspace_id and c.user_id = any(:user_ids::text[])
   and (c.environment = :environment
        or (c.environment = 'production'
            and exists (select from vault.integrations i
                         where i.workspace_id = :workspace_id and i.integration = c.integration
                           and i.share_connections)));

-- name: release
-- Whoever held them, and whatever else of the same user, has let go.
with older as (
    delete from vault.connection_holds
     where workspace_id = :workspace_id and connection_id = any(:connection_ids::text[])
       and holder = :holder
)
delete from vault.holds h
 using vault.connections c
 where h.workspace_id = :workspace_id and c.workspace_id = :workspace_id
   and c.connection_id = any(:connection_ids::text[]) and h.user_id = c.user_id
   and h.holder = :holder;
