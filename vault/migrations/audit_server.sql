-- The database has moved to another server, whose transactions count from the beginning: lines of the
-- audit record go on counting above all that there are.
do $$
declare
    wanted bigint;
begin
    lock table vault.audit_events in access exclusive mode;
    -- Lines that are not sealed yet are not so far above those that are.
    select greatest(sealed_to, shift) + (1::bigint << 40) into wanted from vault.audit_sealing for update;
    execute format(
        'alter table vault.audit_events alter column xact set default %s + pg_current_xact_id()::text::bigint',
        wanted);
    update vault.audit_sealing
       set shift = wanted, turn_owner = null, turn_until = null,
           server = (select system_identifier::text from pg_control_system());
end
$$;
