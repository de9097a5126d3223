-- What is known of a connection without opening it, and its tokens.

-- name: list
select connection_id, user_id, integration, environment, provider, state, needs, refresh_by,
       generation, account, asked_scopes, scopes, expires_at, refresh_expires_at, consented_at,
       created_at, updated_at
  from vault.connections
 where workspace_id = :workspace_id
   and connection_id > :after
   and (:user_id = '' or user_id = :user_id)
   and (:integration = '' or integration = :integration)
   and (:state = '' or state = :state)
   and (:environments::text[] = '{}' or environment = any(:environments::text[]))
 order by connection_id
 limit :limit;

-- name: get
select connection_id, user_id, integration, environment, provider, state, needs, refresh_by,
       generation, account, asked_scopes, scopes, expires_at, refresh_expires_at, consented_at,
       created_at, updated_at
  from vault.connections
 where workspace_id = :workspace_id and connection_id = :connection_id;

-- name: find
select connection_id, user_id, integration, environment, provider, state, needs, refresh_by,
       generation, account, asked_scopes, scopes, expires_at, refresh_expires_at, consented_at,
       created_at, updated_at
  from vault.connections
 where workspace_id = :workspace_id and user_id = :user_id and integration = :integration
   and environment = :environment;

-- name: await
-- A first consent that still waits for somebody; where there is a connection it goes on meanwhile.
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, state, needs,
        refresh_by, generation, asked_scopes)
values (:workspace_id, :connection_id, :user_id, :integration, :environment, :provider, 'pending',
        :needs, 'keyturn', 0, :asked_scopes)
on conflict (workspace_id, user_id, integration, environment) do update
   set needs = excluded.needs, asked_scopes = excluded.asked_scopes, updated_at = now()
 where connections.state = 'pending'
returning connection_id, user_id, integration, environment, provider, state, needs, refresh_by,
       generation, account, asked_scopes, scopes, expires_at, refresh_expires_at, consented_at,
       created_at, updated_at;

-- name: put
-- The newest consent takes the place of the one before; the generation goes on.
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, state,
        refresh_by, generation, account, asked_scopes, scopes, expires_at, refresh_expires_at,
        consented_at)
values (:workspace_id, :connection_id, :user_id, :integration, :environment, :provider, 'active',
        :refresh_by, :generation, :account, :asked_scopes, :scopes, :expires_at,
        :refresh_expires_at, now())
on conflict (workspace_id, user_id, integration, environment) do update
   set provider = excluded.provider, state = 'active', needs = null,
       refresh_by = excluded.refresh_by, generation = excluded.generation,
       account = excluded.account, asked_scopes = excluded.asked_scopes, scopes = excluded.scopes,
       expires_at = excluded.expires_at, refresh_expires_at = excluded.refresh_expires_at,
       consented_at = now(), updated_at = now()
 where connections.connection_id = excluded.connection_id
   and connections.generation = excluded.generation - 1
returning connection_id, user_id, integration, environment, provider, state, needs, refresh_by,
       generation, account, asked_scopes, scopes, expires_at, refresh_expires_at, consented_at,
       created_at, updated_at;

-- name: put_tokens
insert into vault.connection_tokens (workspace_id, connection_id, generation, sealed)
values (:workspace_id, :connection_id, :generation, :sealed)
on conflict (workspace_id, connection_id) do update
   set generation = excluded.generation, sealed = excluded.sealed;

-- name: tokens
select t.generation, t.sealed, k.sealed as user_key
  from vault.connections c
  join vault.connection_tokens t on t.workspace_id = c.workspace_id and t.connection_id = c.connection_id
  join vault.user_keys k on k.workspace_id = c.workspace_id and k.user_id = c.user_id
 where c.workspace_id = :workspace_id and c.connection_id = :connection_id;

-- name: siblings
-- Other living connections of the same account at the same app: a provider that kills the whole
-- grant would take them along.
select count(*) as number
  from vault.connections c
  join vault.integrations i on i.workspace_id = c.workspace_id and i.integration = c.integration
 where c.workspace_id = :workspace_id and c.account = :account
   and c.connection_id <> :connection_id
   and c.state not in ('pending', 'revoking', 'revoked')
   and c.integration = any(:integrations::text[]);

-- name: delete
delete from vault.connections
 where workspace_id = :workspace_id and connection_id = :connection_id
returning connection_id as id;

-- name: forget_pending
-- A first consent that nobody completed leaves nothing behind.
delete from vault.connections
 where workspace_id = :workspace_id and user_id = :user_id and integration = :integration
   and environment = :environment and state = 'pending';
