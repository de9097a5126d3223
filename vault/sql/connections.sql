-- What is known of a connection without opening it, and its tokens.

-- name: list
select c.connection_id, c.user_id, c.integration, c.environment, c.provider, l.state, c.needs,
       c.refresh_by, l.generation, c.account, c.asked_scopes, c.scopes, l.access_ends as expires_at,
       l.consent_ends as refresh_expires_at, l.consented_at, c.created_at, c.updated_at
  from vault.connections c
  join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where c.workspace_id = :workspace_id
   and c.connection_id > :after
   and (:user_id = '' or c.user_id = :user_id)
   and (:integration = '' or c.integration = :integration)
   and (:state = '' or l.state = :state)
   and (:accounts::bytea[] = '{}' or c.account = any(:accounts::bytea[]))
   and (:environments::text[] = '{}' or c.environment = any(:environments::text[]))
 order by c.connection_id
 limit :limit;

-- name: get
select c.connection_id, c.user_id, c.integration, c.environment, c.provider, l.state, c.needs,
       c.refresh_by, l.generation, c.account, c.asked_scopes, c.scopes, l.access_ends as expires_at,
       l.consent_ends as refresh_expires_at, l.consented_at, c.created_at, c.updated_at
  from vault.connections c
  join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where c.workspace_id = :workspace_id and c.connection_id = :connection_id;

-- name: find
select c.connection_id, c.user_id, c.integration, c.environment, c.provider, l.state, c.needs,
       c.refresh_by, l.generation, c.account, c.asked_scopes, c.scopes, l.access_ends as expires_at,
       l.consent_ends as refresh_expires_at, l.consented_at, c.created_at, c.updated_at
  from vault.connections c
  join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where c.workspace_id = :workspace_id and c.user_id = :user_id and c.integration = :integration
   and c.environment = :environment;

-- name: await
-- A first consent that still waits for somebody; where there is a connection it goes on meanwhile.
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, needs, refresh_by,
        asked_scopes)
values (:workspace_id, :connection_id, :user_id, :integration, :environment, :provider, :needs,
        'keyturn', :asked_scopes)
on conflict (workspace_id, user_id, integration, environment) do update
   set needs = excluded.needs, asked_scopes = excluded.asked_scopes, updated_at = now()
 where connections.needs is not null
returning connection_id as id;

-- name: put
-- The newest consent takes the place of the one before.
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, refresh_by,
        account, asked_scopes, scopes)
values (:workspace_id, :connection_id, :user_id, :integration, :environment, :provider,
        :refresh_by, :account, :asked_scopes, :scopes)
on conflict (workspace_id, user_id, integration, environment) do update
   set provider = excluded.provider, needs = null, refresh_by = excluded.refresh_by,
       account = excluded.account, asked_scopes = excluded.asked_scopes, scopes = excluded.scopes,
       updated_at = now()
 where connections.connection_id = excluded.connection_id
returning connection_id as id;

-- name: put_tokens
insert into vault.connection_tokens (workspace_id, connection_id, generation, sealed)
values (:workspace_id, :connection_id, :generation, :sealed)
on conflict (workspace_id, connection_id) do update
   set generation = excluded.generation, sealed = excluded.sealed;

-- name: replace_tokens
-- A batch of refreshed tokens, in the place of those before.
update vault.connection_tokens t
   set generation = n.generation, sealed = n.sealed
  from unnest(:connection_ids::text[], :generations::bigint[], :sealed::bytea[])
       as n(connection_id, generation, sealed)
 where t.workspace_id = :workspace_id and t.connection_id = n.connection_id
   and t.generation < n.generation;

-- name: set_scopes
-- Most refreshes change no scopes, and leave this row alone.
update vault.connections
   set scopes = :scopes, updated_at = now()
 where workspace_id = :workspace_id and connection_id = :connection_id;

-- name: tokens
select generation, sealed
  from vault.connection_tokens
 where workspace_id = :workspace_id and connection_id = :connection_id;

-- name: refreshable
-- What a refresh needs beside the life.
select c.connection_id, c.user_id, c.refresh_by, c.scopes, t.generation, t.sealed,
       k.sealed as user_key
  from vault.connections c
  join vault.connection_tokens t on t.workspace_id = c.workspace_id and t.connection_id = c.connection_id
  join vault.user_keys k on k.workspace_id = c.workspace_id and k.user_id = c.user_id
 where c.workspace_id = :workspace_id and c.connection_id = any(:connection_ids::text[]);

-- name: siblings
-- Where else the same account lives: a provider that kills the whole grant may take that along.
select c.connection_id, c.integration, c.environment
  from vault.connections c
  join vault.connection_lives l
    on l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
 where c.workspace_id = :workspace_id and c.account = :account
   and l.state not in ('pending', 'revoking', 'revoked');

-- name: delete
-- Its life is locked already, so that no newer tokens come in between.
delete from vault.connections c
 using vault.connection_lives l
 where c.workspace_id = :workspace_id and c.connection_id = :connection_id
   and l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
   and l.generation = :generation
returning c.connection_id as id;

-- name: forget_pending
-- A first consent that nobody completed leaves nothing behind.
delete from vault.connections c
 using vault.connection_lives l
 where c.workspace_id = :workspace_id and c.user_id = :user_id and c.integration = :integration
   and c.environment = :environment
   and l.workspace_id = c.workspace_id and l.connection_id = c.connection_id
   and l.state = 'pending';
