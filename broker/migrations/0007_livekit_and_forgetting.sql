-- A workspace's LiveKit project, beside its account at ElevenLabs.

alter table vault.upstreams
    drop constraint upstreams_kind_check,
    add constraint upstreams_kind_check check (kind in ('elevenlabs', 'livekit'));

-- A worker finds in which workspaces conversations are old enough to be deleted: by the first one
-- of each. Then it works as the workspace.
grant select (workspace_id, conversation_id, created_at) on vault.conversations to keyturn_worker;
create policy worker on vault.conversations for select to keyturn_worker using (true);
