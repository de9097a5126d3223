-- A connection's life: its lease, its clocks, and when to look at it next.

-- name: lock
-- In one order, so that two batches do not wait for each other. What earlier versions have written
-- down as held is looked at while there is any of it.
select l.connection_id, l.integration, l.environment, l.state, l.generation, l.fence, l.saved,
       l.consented, l.lease_owner, l.lease_attempt, l.lease_generation, l.lease_at, l.lease_until,
       l.doubt_since, l.suspect_since, l.suspect_lost, l.orphan, l.failures, l.last_failure,
       l.next_try_at, l.verdict, l.told, l.issued_at, l.consented_at, l.access_ends, l.idle_ends,
       l.consent_ends, l.renewable, l.policy, l.noticed, l.used_at, l.expected_at,
       l.promised, l.due_at, l.user_ref,
       greatest(
           (select max(h.held_until)
              from vault.holds h
             where h.workspace_id = :workspace_id and h.user_id = l.of_user
               and h.held ->> l.connection_id = l.generation::text and h.held_until > now()),
           case when exists (select from vault.connection_holds o
                              where o.workspace_id = :workspace_id)
                then (select max(h.held_until)
                        from vault.connection_holds h
                       where h.workspace_id = :workspace_id and h.connection_id = l.connection_id
                         and h.generation = l.generation and h.held_until > now())
           end) as held_until
  from vault.connection_lives l
 where l.workspace_id = :workspace_id and l.connection_id = any(:connection_ids::text[])
 order by l.connection_id
   for no key update of l;

-- name: lock_due
-- The same for a sweep: what somebody else is at is not waited for, nor what he has put off.
-- Whoever claims leaves due_at as it was, and whose lease lasts is not due.
select l.connection_id, l.integration, l.environment, l.state, l.generation, l.fence, l.saved,
       l.consented, l.lease_owner, l.lease_attempt, l.lease_generation, l.lease_at, l.lease_until,
       l.doubt_since, l.suspect_since, l.suspect_lost, l.orphan, l.failures, l.last_failure,
       l.next_try_at, l.verdict, l.told, l.issued_at, l.consented_at, l.access_ends, l.idle_ends,
       l.consent_ends, l.renewable, l.policy, l.noticed, l.used_at, l.expected_at,
       l.promised, l.due_at, l.user_ref,
       greatest(
           (select max(h.held_until)
              from vault.holds h
             where h.workspace_id = :workspace_id and h.user_id = l.of_user
               and h.held ->> l.connection_id = l.generation::text and h.held_until > now()),
           case when exists (select from vault.connection_holds o
                              where o.workspace_id = :workspace_id)
                then (select max(h.held_until)
                        from vault.connection_holds h
                       where h.workspace_id = :workspace_id and h.connection_id = l.connection_id
                         and h.generation = l.generation and h.held_until > now())
           end) as held_until
  from vault.connection_lives l
 where l.workspace_id = :workspace_id and l.connection_id = any(:connection_ids::text[])
   and l.due_at <= now() and (l.lease_until is null or l.lease_until <= now())
 order by l.connection_id
   for no key update of l skip locked;

-- name: rested
-- Of those that are due, the ones at rest, with all that a call for them takes; the rest of the
-- batch is locked by lock_due. In no order, since nobody is waited for. Tokens of another
-- generation are of before somebody else's commit. What is renewable is ours to refresh.
select l.connection_id, k.user_id, l.generation, t.sealed, k.sealed as user_key, l.fence, l.due_at,
       l.issued_at, l.consented_at, l.access_ends, l.idle_ends, l.consent_ends, l.policy, l.noticed,
       l.used_at, l.expected_at, l.promised,
       greatest(
           (select max(h.held_until)
              from vault.holds h
             where h.workspace_id = :workspace_id and h.user_id = l.of_user
               and h.held ->> l.connection_id = l.generation::text and h.held_until > now()),
           case when exists (select from vault.connection_holds o
                              where o.workspace_id = :workspace_id)
                then (select max(h.held_until)
                        from vault.connection_holds h
                       where h.workspace_id = :workspace_id and h.connection_id = l.connection_id
                         and h.generation = l.generation and h.held_until > now())
           end) as held_until
  from vault.connection_lives l
  join vault.connection_tokens t
    on t.workspace_id = l.workspace_id and t.connection_id = l.connection_id
   and t.generation = l.generation
  join vault.user_keys k on k.workspace_id = l.workspace_id and k.user_id = l.of_user
 where l.workspace_id = :workspace_id and l.connection_id = any(:connection_ids::text[])
   and l.due_at <= now() and l.renewable
   and l.state = 'active' and l.lease_owner is null and l.doubt_since is null
   and l.last_failure is null and l.next_try_at is null and not l.told
   for no key update of l skip locked;

-- name: insert
-- A life begins with its connection.
insert into vault.connection_lives
       (workspace_id, connection_id, integration, environment, provider, state, generation, policy,
        user_ref, of_user)
select :workspace_id, :connection_id, :integration, :environment, i.provider, 'pending', 0,
       i.refresh_policy, :user_ref,
       (select c.user_id
          from vault.connections c
         where c.workspace_id = :workspace_id and c.connection_id = :connection_id)
  from vault.integrations i
 where i.workspace_id = :workspace_id and i.integration = :integration
on conflict (workspace_id, connection_id) do nothing;

-- name: write
-- A batch of lives as the machine left them, column by column.
update vault.connection_lives l
   set state = n.state, generation = n.generation, fence = n.fence, saved = n.saved,
       consented = n.consented, lease_owner = n.lease_owner, lease_attempt = n.lease_attempt,
       lease_generation = n.lease_generation, lease_at = n.lease_at, lease_until = n.lease_until,
       doubt_since = n.doubt_since, suspect_since = n.suspect_since,
       suspect_lost = n.suspect_lost, orphan = n.orphan, failures = n.failures,
       last_failure = n.last_failure, next_try_at = n.next_try_at, verdict = n.verdict,
       told = n.told, issued_at = n.issued_at, consented_at = n.consented_at,
       access_ends = n.access_ends, idle_ends = n.idle_ends, consent_ends = n.consent_ends,
       renewable = n.renewable, policy = n.policy, noticed = n.noticed, promised = n.promised,
       due_at = n.due_at
  from unnest(
           :connection_id::text[], :state::text[], :generation::bigint[], :fence::bigint[],
           :saved::bigint[], :consented::bigint[], :lease_owner::text[], :lease_attempt::text[],
           :lease_generation::bigint[], :lease_at::timestamptz[], :lease_until::timestamptz[],
           :doubt_since::timestamptz[], :suspect_since::timestamptz[], :suspect_lost::boolean[],
           :orphan::bigint[], :failures::integer[], :last_failure::text[],
           :next_try_at::timestamptz[], :verdict::text[], :told::boolean[],
           :issued_at::timestamptz[], :consented_at::timestamptz[], :access_ends::timestamptz[],
           :idle_ends::timestamptz[], :consent_ends::timestamptz[], :renewable::boolean[],
           :policy::text[], :noticed::integer[], :promised::integer[], :due_at::timestamptz[])
       as n(connection_id, state, generation, fence, saved, consented, lease_owner, lease_attempt,
           lease_generation, lease_at, lease_until, doubt_since, suspect_since, suspect_lost,
           orphan, failures, last_failure, next_try_at, verdict, told, issued_at, consented_at,
           access_ends, idle_ends, consent_ends, renewable, policy, noticed, promised, due_at)
 where l.workspace_id = :workspace_id and l.connection_id = n.connection_id;

-- name: claim
-- Calls that one transaction has granted, all to one owner. Nothing else of a life changes by it,
-- and of what is due nothing that stands in an index: that is most of what an update costs.
-- What is no array comes as a text: of texts each has its end of line, numbers have spaces between.
with lives as (
    update vault.connection_lives l
       set state = 'refreshing', fence = n.fence, lease_owner = :owner, lease_attempt = n.attempt,
           lease_generation = l.generation, lease_at = :at, lease_until = :until,
           doubt_since = n.doubt_since, next_try_at = null,
           due_at = case when l.due_at <= :at then l.due_at else :at end
      from unnest(
               string_to_array(:connection_id, E'\n'), string_to_array(:fence, ' ')::bigint[],
               string_to_array(:attempt, E'\n'), :doubt_since::timestamptz[])
           as n(connection_id, fence, attempt, doubt_since)
     where l.workspace_id = :workspace_id and l.connection_id = n.connection_id
), over as (
    delete from vault.claims
     where workspace_id = :workspace_id and at < now() - interval '2 minutes'
)
insert into vault.claims (workspace_id, attempt, owner, connection_ids)
values (:workspace_id, split_part(:attempt, E'\n', 1), :owner,
        string_to_array(rtrim(:connection_id, E'\n'), E'\n'));

-- name: renew
-- New tokens in the place of those before, and lives that are at rest with them. What only a
-- consent changes stays as it is. Where the row of a life does not say whose it is, it does now.
with n as (
    select n.connection_id, n.sealed, n.generation, n.fence, n.saved, n.orphan, n.issued_at,
           n.consented_at, n.access_ends, n.idle_ends, n.consent_ends, n.renewable, n.due_at
      from unnest(
               :connection_id::text[], :sealed::bytea[], :generation::bigint[], :fence::bigint[],
               :saved::bigint[], :orphan::bigint[], :issued_at::timestamptz[],
               :consented_at::timestamptz[], :access_ends::timestamptz[], :idle_ends::timestamptz[],
               :consent_ends::timestamptz[], :renewable::boolean[], :due_at::timestamptz[])
           as n(connection_id, sealed, generation, fence, saved, orphan, issued_at, consented_at,
               access_ends, idle_ends, consent_ends, renewable, due_at)
), tokens as (
    update vault.connection_tokens t
       set generation = n.generation, sealed = n.sealed
      from n
     where t.workspace_id = :workspace_id and t.connection_id = n.connection_id
       and t.generation < n.generation
)
update vault.connection_lives l
   set state = 'active', generation = n.generation, fence = n.fence, saved = n.saved,
       lease_owner = null, lease_attempt = null, lease_generation = null, lease_at = null,
       lease_until = null, doubt_since = null, suspect_since = null, suspect_lost = false,
       orphan = n.orphan, failures = 0, last_failure = null, next_try_at = null, verdict = null,
       told = false, issued_at = n.issued_at, consented_at = n.consented_at,
       access_ends = n.access_ends, idle_ends = n.idle_ends, consent_ends = n.consent_ends,
       renewable = n.renewable, due_at = n.due_at,
       of_user = coalesce(l.of_user, (select c.user_id
                                        from vault.connections c
                                       where c.workspace_id = :workspace_id
                                         and c.connection_id = n.connection_id))
  from n
 where l.workspace_id = :workspace_id and l.connection_id = n.connection_id;

-- name: renew_rested
-- New tokens for lives that rested when they were claimed, with the timeline, the news and what is
-- held no more; where nothing has changed since of what their next look was reckoned with, neither
-- the claim nor the use. (While a claim stands, there is no line for its fence.) There are no news
-- where nobody hears of them. Returns whose they became. Texts and numbers come as with claim. What
-- is compared is one condition: of many, each of which is rarely true elsewhere, the planner would
-- conclude that there is next to no such life.
with n as (
    select n.connection_id, n.sealed, n.generation, n.fence, n.access_ends, n.idle_ends,
           n.consent_ends, n.policy, n.used_at, n.expected_at, n.promised, n.due_at, n.attempt,
           n.event_id, n.body
      from unnest(
               string_to_array(:connection_id, E'\n'), :sealed::bytea[],
               string_to_array(:generation, ' ')::bigint[], string_to_array(:fence, ' ')::bigint[],
               :access_ends::timestamptz[], :idle_ends::timestamptz[],
               :consent_ends::timestamptz[], string_to_array(:policy, E'\n'),
               :used_at::timestamptz[], :expected_at::timestamptz[],
               string_to_array(:promised, ' ')::integer[], :due_at::timestamptz[],
               string_to_array(:attempt, E'\n'), string_to_array(:event_id, E'\n'),
               string_to_array(:body, E'\n'))
           as n(connection_id, sealed, generation, fence, access_ends, idle_ends, consent_ends,
               policy, used_at, expected_at, promised, due_at, attempt, event_id, body)
), lives as (
    update vault.connection_lives l
       set state = 'active', generation = n.generation, saved = n.fence, lease_owner = null,
           lease_attempt = null, lease_generation = null, lease_at = null, lease_until = null,
           orphan = null, issued_at = l.lease_at, access_ends = n.access_ends,
           idle_ends = n.idle_ends, consent_ends = n.consent_ends, due_at = n.due_at
      from n
     where l.workspace_id = :workspace_id and l.connection_id = n.connection_id
       and case when l.fence = n.fence and l.lease_owner = :owner
                 and l.generation = n.generation - 1
                 and l.policy = n.policy and l.promised = n.promised
                 and l.used_at is not distinct from n.used_at
                 and l.expected_at is not distinct from n.expected_at then true end
    returning l.connection_id, l.of_user, l.generation, l.fence, l.issued_at, n.sealed, n.attempt,
              n.event_id, n.body
), tokens as (
    update vault.connection_tokens t
       set generation = m.generation, sealed = m.sealed
      from lives m
     where t.workspace_id = :workspace_id and t.connection_id = m.connection_id
       and t.generation < m.generation
), noted as (
    insert into vault.refresh_attempts
           (workspace_id, connection_id, fence, owner, attempt, began_at, outcome, generation)
    select :workspace_id, m.connection_id, m.fence, :owner, m.attempt, m.issued_at, 'refreshed',
           m.generation
      from lives m
), told as (
    insert into vault.outbox (workspace_id, event_id, type, body)
    select :workspace_id, m.event_id, 'connection.refreshed', m.body
      from lives m
     where m.body is not null
    returning event_id, type
), sent as (
    insert into vault.event_deliveries (workspace_id, event_id, endpoint_id)
    select :workspace_id, o.event_id, e.endpoint_id
      from told o
      join vault.event_endpoints e on e.workspace_id = :workspace_id
     where e.disabled_at is null and (e.types = '{}' or o.type = any(e.types))
), over as (
    delete from vault.holds h
     using lives m
     where h.workspace_id = :workspace_id and h.user_id = m.of_user and h.held_until <= now()
), older as (
    delete from vault.connection_holds h
     using lives m
     where h.workspace_id = :workspace_id and h.connection_id = m.connection_id
       and h.held_until <= now()
)
select connection_id as id from lives;

-- name: expect
-- The nearest that is still to come counts. What is under way is scheduled when it ends.
update vault.connection_lives
   set expected_at = case when expected_at > now() then least(expected_at, :at) else :at end,
       due_at = case when lease_owner is null and state not in ('pending', 'needs_reauth')
                     then now() else due_at end
 where workspace_id = :workspace_id and connection_id = any(:connection_ids::text[])
   and (:environments::text[] = '{}' or environment = any(:environments::text[]))
returning connection_id, environment, user_ref;

-- name: put_off
-- What there is no room for now.
update vault.connection_lives
   set due_at = now() + :seconds::integer * interval '1 second'
 where workspace_id = :workspace_id and connection_id = any(:connection_ids::text[])
   and due_at <= now() and (lease_until is null or lease_until <= now());

-- name: set_policy
-- A change of the integration; each is looked at anew.
update vault.connection_lives
   set policy = :policy, due_at = now()
 where workspace_id = :workspace_id and integration = :integration and policy <> :policy
   and state not in ('pending', 'needs_reauth');

-- name: due
-- crosses workspaces: a worker finds what is due in all of them, and sees no more than this.
select workspace_id, connection_id, integration, environment, used_at, access_ends, due_at
  from vault.connection_lives
 where due_at <= now() and (lease_until is null or lease_until <= now())
 order by due_at
 limit :limit;

-- name: due_in_turn
-- crosses workspaces: what is first of each of the next ones, however much another has. A workspace
-- of which nothing is due has a row without a connection, so that the next look goes on after it.
with recursive turns (workspace_id, turn) as (
    (select workspace_id, 1
       from vault.connection_lives
      where workspace_id > :after and due_at is not null
      order by workspace_id
      limit 1)
    union all
    select (select l.workspace_id
              from vault.connection_lives l
             where l.workspace_id > t.workspace_id and l.due_at is not null
             order by l.workspace_id
             limit 1), t.turn + 1
      from turns t
     where t.workspace_id is not null and t.turn < :workspaces::integer
)
select t.workspace_id, d.first as connection_id, d.at as integration, d.inside as environment,
       d.used_at, d.access_ends, d.due_at
  from turns t
  left join lateral (
           select l.connection_id as first, l.integration as at, l.environment as inside, l.used_at,
                  l.access_ends, l.due_at
             from vault.connection_lives l
            where l.workspace_id = t.workspace_id and l.due_at <= now()
              and (l.lease_until is null or l.lease_until <= now())
            order by l.due_at
            limit :each) d on true
 where t.workspace_id is not null
 order by t.workspace_id;

-- name: left
-- crosses workspaces: what the dead have left is found in all of them, too. What they have claimed
-- says where to look; whose lease has ended is due anyway.
select l.workspace_id, l.connection_id, l.integration, l.environment, l.used_at, l.access_ends,
       l.due_at
  from vault.claims c,
       lateral (select o.workspace_id, o.connection_id, o.integration, o.environment, o.used_at,
                       o.access_ends, o.due_at
                  from vault.connection_lives o
                 where o.workspace_id = c.workspace_id
                   and o.connection_id = any(c.connection_ids) and o.lease_owner = c.owner
                 limit :limit) l
 where c.at > now() - interval '2 minutes' and not c.owner = any(:alive::text[])
 limit :limit;

-- name: forget_holds
-- Of the users whose connections these are.
with older as (
    delete from vault.connection_holds
     where workspace_id = :workspace_id and connection_id = any(:connection_ids::text[])
       and held_until <= now()
)
delete from vault.holds h
 using vault.connection_lives l
 where h.workspace_id = :workspace_id and l.workspace_id = :workspace_id
   and l.connection_id = any(:connection_ids::text[]) and h.user_id = l.of_user
   and h.held_until <= now();
