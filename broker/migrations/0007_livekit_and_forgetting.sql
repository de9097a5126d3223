-- A workspace's LiveKit project, beside its account at ElevenLabs.

alter table vault.upstreams
    drop constraint upstreams_kind_check,
    add constraint upstreams_kind_check check (kind in ('elevenlabs', 'livekit'));

-- A worker finds where conversations are old enough to be deleted; then it works as the workspace.
create index conversations_made on vault.conversations (created_at);
grant select (workspace_id, created_at) on vault.conversations to keyturn_worker;
create policy worker on vault.conversations for select to keyturn_worker using (true);
