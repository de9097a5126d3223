-- Where events go to.

-- name: insert
insert into vault.event_endpoints (workspace_id, endpoint_id, types, created_by)
values (:workspace_id, :endpoint_id, :types, :created_by);

-- name: insert_secrets
insert into vault.event_endpoint_secrets (workspace_id, endpoint_id, generation, sealed)
values (:workspace_id, :endpoint_id, 1, :sealed);

-- name: number
select count(*) as number
  from vault.event_endpoints
 where workspace_id = :workspace_id;

-- name: get
select e.endpoint_id, e.types, e.failures, e.failing_since, e.rest_until, e.delivered_at,
       e.disabled_at, e.disabled_why, e.created_at, e.created_by, s.generation, s.sealed,
       s.updated_at
  from vault.event_endpoints e
  join vault.event_endpoint_secrets s
    on s.workspace_id = e.workspace_id and s.endpoint_id = e.endpoint_id
 where e.workspace_id = :workspace_id and e.endpoint_id = :endpoint_id;

-- name: list
select e.endpoint_id, e.types, e.failures, e.failing_since, e.rest_until, e.delivered_at,
       e.disabled_at, e.disabled_why, e.created_at, e.created_by, s.generation, s.sealed,
       s.updated_at
  from vault.event_endpoints e
  join vault.event_endpoint_secrets s
    on s.workspace_id = e.workspace_id and s.endpoint_id = e.endpoint_id
 where e.workspace_id = :workspace_id and e.endpoint_id > :after
 order by e.endpoint_id
 limit :limit;

-- name: set_secrets
update vault.event_endpoint_secrets
   set sealed = :sealed, generation = generation + 1, updated_at = now()
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id and generation = :generation
returning endpoint_id as id;

-- name: set
-- The next claim's number goes to nobody: what a turn that is under way finds out is of the past.
update vault.event_endpoints
   set types = :types, claim = claim + 1, failures = 0, failing_since = null, rest_until = null,
       disabled_at = case when :enabled::boolean then null else coalesce(disabled_at, now()) end,
       disabled_why = case when :enabled::boolean then null
                           else coalesce(disabled_why, 'asked') end
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id
returning endpoint_id as id;

-- name: delete
delete from vault.event_endpoints
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id
returning endpoint_id as id;

-- name: claim
-- One replica at a time delivers to an endpoint; if it dies, the next one waits for the end.
update vault.event_endpoints
   set claim = claim + 1, claimed_until = now() + :seconds::integer * interval '1 second'
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id and disabled_at is null
   and (claimed_until is null or claimed_until <= now())
   and (rest_until is null or rest_until <= now())
returning claim, claimed_until, failures, failing_since;

-- name: settle
-- How a turn went; only for who still has it.
update vault.event_endpoints
   set claimed_until = null, failures = :failures, failing_since = :failing_since,
       rest_until = :rest_until, delivered_at = coalesce(:delivered_at, delivered_at),
       disabled_at = :disabled_at, disabled_why = :disabled_why
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id and claim = :claim
returning endpoint_id as id;

-- name: release
-- The turn of a claim that something else has overtaken is over, too.
update vault.event_endpoints
   set claimed_until = null
 where workspace_id = :workspace_id and endpoint_id = :endpoint_id
   and claimed_until = :claimed_until;
