-- Rights: tokens that end, whose agents and whose blobs are whose, and the log of what was done.

alter table tokens add column expires_at bigint;
-- A token that was revoked stays, so that its jobs have an owner and the audit log keeps its sense.
alter table tokens add column revoked_at bigint;
-- To the minute.
alter table tokens add column last_used_at bigint;

-- The token that registered the agent. Null: it did so before tokens had roles, by an
-- administrator's.
alter table agents add column token_id text;

-- Jobs of one owner in one state.
create index jobs_owner_state on jobs (owner, state, id);

-- Who has uploaded which blob: who may read it and name it in submissions.
create table uploads (
    owner text not null,
    digest text not null,
    uploaded_at bigint not null,
    primary key (owner, digest)
);
create index uploads_digest on uploads (digest);

-- What was done, and by whom.
create table audit (
    -- One id for all that one request did, younger ones larger.
    id text not null,
    -- To what: the id of a job, an agent or a token.
    object_id text not null,
    at bigint not null,
    action text not null,
    token_id text not null,
    -- What it was called then.
    token_name text not null,
    address text,
    request_id text not null,
    primary key (id, object_id)
);
create index audit_object on audit (object_id, id);
create index audit_at on audit (at);
