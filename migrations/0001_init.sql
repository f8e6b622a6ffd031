-- farrow's schema, in the SQL that SQLite and PostgreSQL share: text, bigint, boolean, bytea.
-- Times are milliseconds since 1970, ids are UUIDs as text, structured settings are JSON as text.

-- Single facts about the database: `clock`, the largest time that was used.
create table meta (
    key text primary key,
    value text not null
);

-- Who may call. `hash` is the SHA-256 of the token, which itself is nowhere kept.
create table tokens (
    id text primary key,
    hash text not null unique,
    role text not null,
    name text not null,
    created_at bigint not null
);

-- What was submitted, and where it is in its life. A row changes a few times in all: what moves
-- with every report stands in `progress`.
create table jobs (
    id text primary key,
    owner text not null,
    name text,
    runtime text not null,
    state text not null,
    priority bigint not null,
    -- Elements, counted through all levels of the plan.
    total bigint not null,
    -- Bytes of all elements, for bounding chunks.
    input_bytes bigint not null,
    -- JSON: where the elements are and how the value is put together again.
    shape text not null,
    -- JSON, as submitted.
    plan text not null,
    options text not null,
    -- JSON: what agents must know. Large constants in it are blobs.
    spec text not null,
    -- Elements a chunk where that is fixed; `scheduling` fixes it at the first lease.
    chunk bigint,
    -- Whether anything of it can be leased: the cursor is not at the end, or a range was returned.
    runnable boolean not null,
    submitted_at bigint not null,
    started_at bigint,
    finished_at bigint,
    -- JSON: the problem that failed it.
    error text
);
create index jobs_runnable on jobs (owner, priority desc, id) where runnable;
create index jobs_owner on jobs (owner, id);

-- What moves with every lease and report: one narrow row a job.
create table progress (
    job_id text primary key,
    -- Elements before it have been leased at least once.
    cursor bigint not null,
    done bigint not null,
    failed bigint not null,
    -- Elements and slots under live leases.
    running bigint not null,
    slots bigint not null,
    -- Microseconds that the finished elements ran, for sizing chunks.
    busy_us bigint not null,
    version bigint not null
);

-- The outer elements of a nested plan: which elements, counted through, are one chunk.
create table groups (
    job_id text not null,
    position bigint not null,
    first bigint not null,
    n bigint not null,
    primary key (job_id, position)
);
create index groups_first on groups (job_id, first);

-- Inputs (`element`) and names (`name`, `outer_name`), neighbours together in blocks.
create table blocks (
    job_id text not null,
    kind text not null,
    first bigint not null,
    n bigint not null,
    -- Varints: the bytes of each.
    lengths bytea not null,
    -- LZ4, or null when the bytes are in the blob `digest`.
    data bytea,
    digest text,
    primary key (job_id, kind, first)
);

create table agents (
    id text primary key,
    name text not null,
    state text not null,
    slots bigint not null,
    physical_cores bigint not null,
    logical_cores bigint not null,
    memory bigint not null,
    runtimes text not null,
    labels text not null,
    version text not null,
    registered_at bigint not null,
    -- Its leases are good until then; extended by its heartbeat.
    alive_until bigint not null
);
create index agents_state on agents (state, alive_until);

-- Grants of chunks. `live`: an agent runs it. `lapsed`: the agent has not been heard of; what
-- remains can be leased anew, and until then the agent may still report it. `torn`: lapsed, and part
-- of it was leased anew. `released`: given back.
-- A row is gone when nothing of it remains.
create table leases (
    id text primary key,
    job_id text not null,
    agent_id text not null,
    state text not null,
    -- JSON: the ranges that remain, and how many elements these are.
    ranges text not null,
    remaining bigint not null,
    slots bigint not null,
    width bigint not null,
    attempt bigint not null,
    -- Agents that were lost while they held elements of it.
    lost bigint not null,
    -- JSON: deaths of workers by element.
    deaths text not null,
    granted_at bigint not null,
    version bigint not null
);
create index leases_job on leases (job_id, state);
create index leases_agent on leases (agent_id, state);

-- Accepted outcomes, neighbours of one report together.
create table outcomes (
    job_id text not null,
    first bigint not null,
    n bigint not null,
    lease_id text not null,
    attempt bigint not null,
    agent_id text not null,
    slot bigint not null,
    pid bigint not null,
    started_at bigint not null,
    micros bigint not null,
    -- JSON: positions that are errors, and what was printed and signalled.
    errors text not null,
    notes text not null,
    -- Varints: the bytes of each.
    lengths bytea not null,
    -- LZ4, or null when the bytes are in the blob `digest`.
    data bytea,
    digest text,
    primary key (job_id, first)
);
