"""What the migrated schema must be, rule by rule: every broken one becomes a sentence.

* The lists here are closed. Whoever needs one more role, function or way round row-level security
  adds it here, with its reason, where a reviewer sees it.
* It reads the catalogue and changes nothing; it needs a superuser's connection.
"""

from typing import Any, Final

# Tables that belong to no workspace.
GLOBAL: Final = {
    "vault.audit_sealing": "one row: whose turn it is to seal the audit record, and how far it is",
    "vault.deployment": "one row: what this deployment is",
    "vault.high_water": "one row: how far the deployment has come",
    "vault.replicas": "the processes of the deployment, and which of them live",
    "vault.rotations": "rotations of keys, and what every replica has to be able to open",
    "vault.shreddings": "keyed hashes of what was deleted, of all workspaces",
    "vault.schema_lock": "one row: lets one migration through at a time",
    "vault.schema_migrations": "which files were applied",
}
MINT_LOOK: Final = "vault.mint_look(bytea[],text[],text[],text[])"
MINT_WRITE: Final = (
    "vault.mint_write("
    + ",".join(
        (
            *("bytea[]", *["text[]"] * 12, "bytea[]", "boolean[]", "text[]", "bytea[]", "bytea[]"),
            *("integer[]", "integer[]", "integer[]", "text[]", "boolean[]", *["text[]"] * 3),
        )
    )
    + ")"
)
# As these, for the version that writes less.
MINT_LOOK_UP: Final = MINT_LOOK.replace("mint_look", "mint_look_up")
MINT_WRITE_DOWN: Final = MINT_WRITE.replace("mint_write", "mint_write_down").replace(
    "text[])", "boolean[])"
)
# As the first of these, for the version that reads few columns.
MINT_FIND: Final = MINT_LOOK.replace("mint_look", "mint_find")
TOKEN_READ: Final = "vault.token_read(bytea[],text[],text[],integer[],text[])"
# As this, for the version that begins with less.
TOKEN_HAND_OUT: Final = TOKEN_READ.replace("token_read", "token_hand_out")
# Who runs with the rights of another role, and whose; everybody else calls as itself.
DEFINERS: Final = {
    "vault.lookup_bearer(bytea)": "keyturn_auth",
    "vault.lookup_bearer(bytea,text)": "keyturn_auth",
    "vault.lookup_conversation(bytea,text)": "keyturn_auth",
    "vault.lookup_upstream(bytea)": "keyturn_auth",
    MINT_LOOK: "keyturn_mint",
    MINT_WRITE: "keyturn_mint",
    MINT_LOOK_UP: "keyturn_mint",
    MINT_WRITE_DOWN: "keyturn_mint",
    MINT_FIND: "keyturn_mint",
    TOKEN_READ: "keyturn_mint",
    TOKEN_HAND_OUT: "keyturn_mint",
}
# What one of these calls, as whose role it then runs: nobody else may.
WITHIN: Final = {"vault.token_in_use(text[],text[],text[],integer[])": "keyturn_mint"}
PINNED: Final = "search_path=pg_catalog, pg_temp"
# What else is set while they run: these are planned once, for keys.
PLANNED: Final = [
    *("plan_cache_mode=force_generic_plan", "enable_seqscan=off", "enable_hashjoin=off"),
    "enable_mergejoin=off",
]
SETTINGS: Final = dict.fromkeys(
    (MINT_LOOK, MINT_WRITE, MINT_LOOK_UP, MINT_WRITE_DOWN, MINT_FIND, TOKEN_READ, TOKEN_HAND_OUT),
    PLANNED,
)


def _columns(text: str) -> list[str]:
    return text.split()


MINT_READS: Final = {
    "api_keys": _columns("workspace_id key_id hash scopes environments expires_at last_used_at"),
    "users": _columns("workspace_id user_id generation profile"),
    "user_keys": _columns("workspace_id user_id sealed"),
    "workspace_keys": _columns("workspace_id key_id version state wrapped root_key_id"),
    "index_keys": _columns("workspace_id sealed"),
    "agents": _columns("workspace_id agent_id generation sealed"),
    "upstreams": _columns("workspace_id kind"),
    "integrations": _columns("workspace_id integration share_connections"),
    "connections": _columns(
        "workspace_id connection_id user_id integration environment provider scopes asked_scopes"
    ),
    "connection_lives": _columns(
        "workspace_id connection_id state generation issued_at consented_at access_ends used_at"
        " due_at user_ref of_user"
    ),
    "connection_tokens": _columns("workspace_id connection_id generation sealed"),
    "conversations": _columns("workspace_id conversation_id created_at start_by expires_at"),
}
MINT_UPDATES: Final = {
    "api_keys": _columns("last_used_at"),
    "connection_lives": _columns("used_at promised due_at of_user"),
}
MINT_INSERTS: Final = {
    "conversations": _columns(
        "workspace_id conversation_id agent_id user_id environment runtime channel delivery"
        " branch_id key_id connection_ids kept armed bearer_kind bearer_hash ticket_hash"
        " start_by expires_at"
    ),
    "connection_holds": _columns("workspace_id connection_id holder generation held_until"),
    "holds": _columns("workspace_id user_id holder held held_until"),
    "audit_events": _columns(
        "workspace_id event_id actor_kind actor_id action target_kind target_id user_ref"
        " environment outcome request_id connection_ids"
    ),
}
# Policies for others than the application: the ways round the workspace's wall.
OTHER_POLICIES: Final = {
    "vault.api_keys: lookup_bearer for keyturn_auth",
    # A link and a state name their workspace only once they are found.
    "vault.connect_sessions: lookup_bearer for keyturn_auth",
    "vault.connect_flows: lookup_bearer for keyturn_auth",
    # So do a grant, a handle and a ticket.
    "vault.conversations: lookup_bearer for keyturn_auth",
    # An account at ElevenLabs belongs to one workspace; which, its hash finds.
    "vault.upstreams: lookup_upstream for keyturn_auth",
    # A batch of mints or reads is of many workspaces; each row is bound to that of the key that it
    # brings.
    *(f"vault.{table}: mint for keyturn_mint" for table in MINT_READS | MINT_INSERTS),
    # What is due is found in all workspaces; no ciphertext is in that table.
    "vault.revocations: worker for keyturn_worker",
    "vault.connection_lives: worker for keyturn_worker",
    # Which connections a dead replica has claimed; ids alone.
    "vault.claims: worker for keyturn_worker",
    # How endpoints stand is counted; what is learned of one is no ciphertext, and not shown.
    "vault.token_endpoints: worker for keyturn_worker",
    "vault.connect_sessions: worker for keyturn_worker",
    # Who has events waiting, and where some are too old; neither holds ciphertext.
    "vault.event_endpoints: worker for keyturn_worker",
    "vault.event_deliveries: worker for keyturn_worker",
    "vault.outbox: worker for keyturn_worker",
    # Where there are conversations that are old enough to be deleted.
    "vault.conversations: worker for keyturn_worker",
    # Whose lines are not sealed yet, which batches were, and what is gone; no ciphertext there.
    "vault.audit_events: worker for keyturn_worker",
    "vault.audit_batches: worker for keyturn_worker",
    "vault.audit_seals: worker for keyturn_worker",
    "vault.audit_notes: worker for keyturn_worker",
    "vault.audit_events: worker_forgets for keyturn_worker",
    "vault.audit_batches: worker_forgets for keyturn_worker",
    "vault.audit_seals: worker_forgets for keyturn_worker",
}
# What the worker may delete: of the record what is old, and nothing else.
FORGETS: Final = {
    "vault.audit_events": "(at < (now() - '30 days'::interval))",
    "vault.audit_batches": "(sealed_at < (now() - '30 days'::interval))",
    "vault.audit_seals": "(sealed_at < (now() - '30 days'::interval))",
}
# What the owner of the definer functions may touch, column by column.
AUTH_MAY: Final = {
    *(
        f"vault.api_keys.{column} SELECT"
        for column in (
            *("workspace_id", "key_id", "hash", "scopes", "environments"),
            *("expires_at", "last_used_at"),
        )
    ),
    "vault.api_keys.last_used_at UPDATE",
    *(
        f"vault.connect_sessions.{column} SELECT"
        for column in ("workspace_id", "session_id", "hash", "expires_at")
    ),
    *(
        f"vault.connect_flows.{column} SELECT"
        for column in ("workspace_id", "flow_id", "state_hash", "expires_at")
    ),
    *(
        f"vault.conversations.{column} SELECT"
        for column in (
            *("workspace_id", "conversation_id", "key_id", "bearer_kind", "bearer_hash"),
            *("ticket_hash", "start_by", "expires_at", "ended_at"),
        )
    ),
    *(
        f"vault.upstreams.{column} SELECT"
        for column in ("workspace_id", "kind", "claim_hash", "claimed_at")
    ),
}
_MINT_DEEDS: Final = (
    ("SELECT", MINT_READS),
    ("UPDATE", MINT_UPDATES),
    ("INSERT", MINT_INSERTS),
)
# What the owner of the functions that mint may touch, column by column.
MINT_MAY: Final = {
    f"vault.{table}.{column} {deed}"
    for deed, tables in _MINT_DEEDS
    for table, found in tables.items()
    for column in found
}
# What the worker may see of what is due, column by column.
WORKER_MAY: Final = {
    *(
        f"vault.connect_sessions.{column}"
        for column in ("workspace_id", "session_id", "expires_at", "waits")
    ),
    *(f"vault.claims.{column}" for column in ("workspace_id", "owner", "connection_ids", "at")),
    *(f"vault.revocations.{column}" for column in ("workspace_id", "revocation_id", "due_at")),
    *(
        f"vault.connection_lives.{column}"
        for column in (
            *("workspace_id", "connection_id", "integration", "environment"),
            *("used_at", "access_ends", "due_at", "lease_owner", "lease_until"),
            *("provider", "state"),
        )
    ),
    *(
        f"vault.token_endpoints.{column}"
        for column in ("workspace_id", "provider", "standing", "broken")
    ),
    *(
        f"vault.event_endpoints.{column}"
        for column in ("workspace_id", "endpoint_id", "claimed_until", "failures", "rest_until")
    ),
    *(f"vault.event_deliveries.{column}" for column in ("workspace_id", "endpoint_id", "due_at")),
    *(f"vault.outbox.{column}" for column in ("workspace_id", "at")),
    *(f"vault.conversations.{column}" for column in ("workspace_id", "created_at")),
    *(f"vault.audit_events.{column}" for column in ("workspace_id", "event_id", "at", "xact")),
    *(
        f"vault.audit_batches.{column}"
        for column in ("workspace_id", "number", "seal", "hash", "sealed_at")
    ),
    *(f"vault.audit_seals.{column}" for column in ("workspace_id", "number", "sealed_at")),
    *(f"vault.audit_notes.{column}" for column in ("workspace_id", "chain", "number")),
}
APPEND_ONLY: Final = set(FORGETS)
BYPASS: Final = {"keyturn_backup"}
ROLES: Final = {
    "keyturn_owner",
    "keyturn_app",
    "keyturn_worker",
    "keyturn_auth",
    "keyturn_mint",
    "keyturn_backup",
}
MEMBERS: Final = {"keyturn_owner in keyturn_auth", "keyturn_owner in keyturn_mint"}

MINE: Final = "(workspace_id = current_setting('keyturn.workspace'::text))"
OPERATOR: Final = "(current_setting('keyturn.workspace'::text) = 'operator'::text)"
# The operator's directory: who is the operator reads all names, and deletes as the workspace.
EXPRESSIONS: Final = {
    ("vault.workspaces", "*"): (f"({MINE} OR {OPERATOR})", MINE),
    ("vault.workspaces", "d"): (MINE, None),
}

_OURS: Final = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"


async def complaints(admin: Any) -> list[str]:
    """Everything that is wrong with this database's schema."""
    rules = (
        _tables_have_a_workspace,
        _row_security_is_forced,
        _policies_are_the_expected_ones,
        _keys_begin_with_the_workspace,
        _foreign_keys_begin_with_the_workspace,
        _nothing_forbidden_exists,
        _definers_are_on_the_list,
        _roles_are_weak,
        _memberships_are_on_the_list,
        _owner_owns_everything,
        _rights_are_narrow,
        _public_has_nothing,
    )
    return [sentence for rule in rules for sentence in await rule(admin)]


async def _tables_have_a_workspace(admin: Any) -> list[str]:
    found = await admin.fetch(
        f"""
        select c.oid::regclass::text,
               exists (select from pg_attribute a where a.attrelid = c.oid and a.attnotnull
                          and a.attname = 'workspace_id' and a.atttypid = 'text'::regtype)
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and c.relkind in ('r', 'p') order by 1
        """  # noqa: S608 - our own condition
    )
    complaints = [
        f"{table}: has no 'workspace_id text not null', and is on no list of global tables"
        for table, has_workspace in found
        if not has_workspace and table not in GLOBAL
    ]
    complaints += [f"{name}: is a global table and is gone" for name in GLOBAL.keys() - dict(found)]
    return complaints


async def _row_security_is_forced(admin: Any) -> list[str]:
    return [
        f"{table}: row-level security is not enabled and forced"
        for table, enabled, forced in await admin.fetch(
            f"""
            select c.oid::regclass::text, c.relrowsecurity, c.relforcerowsecurity
              from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where {_OURS} and c.relkind in ('r', 'p') order by 1
            """  # noqa: S608 - our own condition
        )
        if table not in GLOBAL and not (enabled and forced)
    ]


async def _policies_are_the_expected_ones(admin: Any) -> list[str]:
    policies = await admin.fetch(
        """
        select p.polrelid::regclass::text, p.polname, p.polpermissive, p.polcmd::text,
               (select array_agg(case when r = 0 then 'PUBLIC' else r::regrole::text end)
                  from unnest(p.polroles) r),
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
          from pg_policy p order by 1, 2
        """
    )
    complaints, walls = [], set()
    for table, name, permissive, command, roles, using, check in policies:
        if roles != ["keyturn_app"]:
            way = f"{table}: {name} for {', '.join(roles)}"
            if way not in OTHER_POLICIES:
                complaints.append(f"{way}: this way round the workspace's wall is not on the list")
            if command == "d" and using != FORGETS.get(table):
                complaints.append(f"{way}: deletes more than what is old")
            continue
        if permissive:
            continue
        expected = EXPRESSIONS.get((table, command), (MINE, MINE))
        if (using, check) != expected:
            complaints.append(f"{table}: the restrictive policy {name} has another condition")
        walls.add((table, command))
    walled = await admin.fetch("select oid::regclass::text from pg_class where relrowsecurity")
    wanted = {*((table, "*") for (table,) in walled), *EXPRESSIONS}
    complaints += [
        f"{table}: has no restrictive policy ({command}) that names the workspace"
        for table, command in sorted(wanted - walls)
    ]
    ways = {f"{table}: {name} for {', '.join(roles)}" for table, name, _, _, roles, *_ in policies}
    return complaints + [f"{way}: is on the list and is gone" for way in OTHER_POLICIES - ways]


async def _keys_begin_with_the_workspace(admin: Any) -> list[str]:
    rows = await admin.fetch(
        f"""
        select c.oid::regclass::text, i.indexrelid::regclass::text, i.indisprimary,
               (select attname from pg_attribute
                 where attrelid = c.oid and attnum = i.indkey[0])
          from pg_index i join pg_class c on c.oid = i.indrelid
          join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and i.indisunique order by 1, 2
        """  # noqa: S608 - our own condition
    )
    # Uniqueness over all workspaces would tell one of them what another has.
    complaints = [
        f"{table}: the unique index {index} does not begin with workspace_id"
        for table, index, _, first in rows
        if table not in GLOBAL and first != "workspace_id"
    ]
    with_key = {table for table, _, primary, _ in rows if primary}
    every = await admin.fetch(
        f"""
        select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and c.relkind in ('r', 'p') order by 1
        """  # noqa: S608 - our own condition
    )
    return complaints + [
        f"{table}: has no primary key" for (table,) in every if table not in with_key
    ]


async def _foreign_keys_begin_with_the_workspace(admin: Any) -> list[str]:
    # A foreign key is checked past row-level security, so it must not reach another workspace.
    return [
        f"{table}: the foreign key {name} does not lead workspace_id to workspace_id"
        for table, name, first, target in await admin.fetch(
            """
            select o.conrelid::regclass::text, o.conname,
                   (select attname from pg_attribute
                     where attrelid = o.conrelid and attnum = o.conkey[1]),
                   (select attname from pg_attribute
                     where attrelid = o.confrelid and attnum = o.confkey[1])
              from pg_constraint o where o.contype = 'f' order by 1, 2
            """
        )
        if (first, target) != ("workspace_id", "workspace_id")
    ]


async def _nothing_forbidden_exists(admin: Any) -> list[str]:
    """What the engines that spread a schema over machines do not have, or what goes round RLS."""
    found = await admin.fetch(
        f"""
        select c.oid::regclass::text || ': ' || case c.relkind
                 when 'S' then 'is a sequence'
                 when 'm' then 'is a materialized view: it has no row-level security'
                 when 'f' then 'is a foreign table'
                 when 'v' then 'is a view without security_invoker' end
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and (c.relkind in ('S', 'm', 'f') or (c.relkind = 'v' and not
               coalesce(c.reloptions, '{{}}') && '{{security_invoker=true,security_invoker=on}}'))
        union all
        select tgrelid::regclass::text || ': has the trigger ' || tgname
          from pg_trigger where not tgisinternal
        union all
        select inhrelid::regclass::text || ': inherits' from pg_inherits i
          join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and c.relkind not in ('i', 'I') and not c.relispartition
        union all
        select conrelid::regclass::text || ': the constraint ' || conname ||
               case when contype = 'x' then ' excludes' else ' is deferrable' end
          from pg_constraint where contype = 'x' or condeferrable
        union all
        select c.oid::regclass::text || ': has the rule ' || r.rulename
          from pg_rewrite r join pg_class c on c.oid = r.ev_class
          join pg_namespace n on n.oid = c.relnamespace
         where {_OURS} and c.relkind <> 'v'
        union all
        select 'the event trigger ' || evtname || ' exists' from pg_event_trigger
        union all
        select 'the extension ' || extname || ' is installed'
          from pg_extension where extname <> 'plpgsql'
        order by 1
        """  # noqa: S608 - our own condition
    )
    return [sentence for (sentence,) in found]


async def _definers_are_on_the_list(admin: Any) -> list[str]:
    known = DEFINERS | WITHIN
    complaints, seen = [], set()
    for name, definer, owner, config, callers in await admin.fetch(
        f"""
        select p.oid::regprocedure::text, p.prosecdef, p.proowner::regrole::text,
               coalesce(p.proconfig, '{{}}'),
               array(select case when a.grantee = 0 then 'PUBLIC' else a.grantee::regrole::text end
                       from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                      where a.grantee <> p.proowner order by 1)
          from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OURS} order by 1
        """  # noqa: S608 - our own condition
    ):
        if name not in known:
            complaints.append(f"{name}: this function is not on the list")
            continue
        seen.add(name)
        if definer is (name in WITHIN) or owner != known[name]:
            complaints.append(f"{name}: does not run as {known[name]}")
        if config != [PINNED, *SETTINGS.get(name, [])]:
            complaints.append(f"{name}: its search path is not pinned to pg_catalog, pg_temp")
        if callers != ([] if name in WITHIN else ["keyturn_app"]):
            alone = "its owner" if name in WITHIN else "keyturn_app"
            complaints.append(f"{name}: can be called by {callers}, not by {alone} alone")
    return complaints + [f"{name}: is on the list and is gone" for name in known.keys() - seen]


async def _roles_are_weak(admin: Any) -> list[str]:
    roles = await admin.fetch(
        """
        select rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
          from pg_roles where rolname = any($1) order by 1
        """,
        list(ROLES),
    )
    complaints = [f"{name}: this role is gone" for name in ROLES - {row[0] for row in roles}]
    for name, superuser, creates_roles, creates_databases, replicates, bypasses in roles:
        for is_it, what in (
            (superuser, "is a superuser"),
            (creates_roles, "can make roles"),
            (creates_databases, "can make databases"),
            (replicates, "can replicate"),
            (bypasses and name not in BYPASS, "bypasses row-level security"),
        ):
            if is_it:
                complaints.append(f"{name}: {what}")
    return complaints


async def _memberships_are_on_the_list(admin: Any) -> list[str]:
    found = await admin.fetch(
        """
        select m.member::regrole::text || ' in ' || m.roleid::regrole::text
          from pg_auth_members m where m.member::regrole::text = any($1) order by 1
        """,
        list(ROLES),
    )
    return [f"{one}: this membership is on no list" for (one,) in found if one not in MEMBERS]


async def _owner_owns_everything(admin: Any) -> list[str]:
    return [
        f"{table}: belongs to {owner}, not to keyturn_owner"
        for table, owner in await admin.fetch(
            f"""
            select c.oid::regclass::text, c.relowner::regrole::text
              from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where {_OURS} and c.relkind <> 't'
            union all
            select 'the schema ' || n.nspname, n.nspowner::regrole::text
              from pg_namespace n where {_OURS} and n.nspname <> 'public'
            order by 1
            """  # noqa: S608 - our own condition
        )
        if owner != "keyturn_owner"
    ]


async def _rights_are_narrow(admin: Any) -> list[str]:
    """What each role may do with each table, given to the whole table or to columns."""
    complaints = []
    for table, column, role, right in await admin.fetch(
        f"""
        select c.oid::regclass::text, null as column_name, a.grantee::regrole::text,
               a.privilege_type
          from pg_class c join pg_namespace n on n.oid = c.relnamespace,
               aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
         where {_OURS} and c.relkind <> 't' and a.grantee not in (0, c.relowner)
        union all
        select c.oid::regclass::text, t.attname, a.grantee::regrole::text, a.privilege_type
          from pg_attribute t join pg_class c on c.oid = t.attrelid
          join pg_namespace n on n.oid = c.relnamespace, aclexplode(t.attacl) a
         where {_OURS} and a.grantee <> 0
        union all
        select 'the schema ' || n.nspname, null, a.grantee::regrole::text, a.privilege_type
          from pg_namespace n, aclexplode(n.nspacl) a
         where {_OURS} and a.grantee not in (0, n.nspowner)
        order by 1, 2, 3, 4
        """  # noqa: S608 - our own condition
    ):
        place = f"{table}.{column}" if column else table
        if _too_much(place, table, role, right):
            complaints.append(f"{place}: {role} has {right}")
    return complaints


def _too_much(place: str, table: str, role: str, right: str) -> bool:
    if table.startswith("the schema "):
        return right != "USAGE" or role not in ROLES
    if role == "keyturn_app":
        changes = {"UPDATE", "DELETE"} if table in APPEND_ONLY else set()
        return right not in {"SELECT", "INSERT", "UPDATE", "DELETE"} - changes
    if role == "keyturn_auth":
        return f"{place} {right}" not in AUTH_MAY
    if role == "keyturn_mint":
        return f"{place} {right}" not in MINT_MAY
    if role == "keyturn_worker" and right == "DELETE":
        return place not in FORGETS
    # The worker reads how far the schema has come, and what is due; the backup reads everything.
    reads = role == "keyturn_backup" or (
        role == "keyturn_worker" and (table in GLOBAL or place in WORKER_MAY)
    )
    return right != "SELECT" or not reads


async def _public_has_nothing(admin: Any) -> list[str]:
    found = await admin.fetch(
        f"""
        select c.oid::regclass::text || ': PUBLIC has ' || a.privilege_type
          from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a
         where {_OURS} and a.grantee = 0
        union all
        select c.oid::regclass::text || '.' || t.attname || ': PUBLIC has ' || a.privilege_type
          from pg_attribute t join pg_class c on c.oid = t.attrelid
          join pg_namespace n on n.oid = c.relnamespace, aclexplode(t.attacl) a
         where {_OURS} and a.grantee = 0
        union all
        select 'the schema ' || n.nspname || ': PUBLIC has ' || a.privilege_type
          from pg_namespace n, aclexplode(n.nspacl) a
         where {_OURS} and a.grantee = 0 and (n.nspname <> 'public' or a.privilege_type <> 'USAGE')
        union all
        select p.oid::regprocedure::text || ': PUBLIC has ' || a.privilege_type
          from pg_proc p join pg_namespace n on n.oid = p.pronamespace,
               aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         where {_OURS} and a.grantee = 0
        union all
        select 'new ' || d.defaclobjtype::text || ': PUBLIC will have ' || a.privilege_type
          from pg_default_acl d, aclexplode(d.defaclacl) a where a.grantee = 0
        order by 1
        """  # noqa: S608 - our own condition
    )
    return [sentence for (sentence,) in found]
