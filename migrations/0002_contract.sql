-- Retries, jobs that wait for others, submissions that are sent twice, memory, deletion.

-- JSON: the ids of the jobs that must be resolved before, as submitted; of a job that has ended those
-- that were not.
alter table jobs add column after_jobs text not null default '[]';
-- The job of which this one runs again what failed or was missing, and the one that does so for it.
alter table jobs add column retry_of text;
alter table jobs add column retried_as text;
-- The `Idempotency-Key` with which it was submitted.
alter table jobs add column idempotency_key text;
create index jobs_idempotency_key on jobs (owner, idempotency_key)
    where idempotency_key is not null;
-- Of all jobs that are kept, few are in the state that is asked for.
create index jobs_state on jobs (state, id);

-- Bytes of memory that the elements that run at once under it may use together; 0: no bound.
alter table leases add column memory bigint not null default 0;
-- A retry leaves a row for each outer element that is to run: the oldest are read without the rest,
-- and what is live without what has come back.
create index leases_returned on leases (job_id, id) where state <> 'live';
create index leases_live on leases (job_id, agent_id, slots) where state = 'live';

-- What a job still waits for: a row is gone when its job `on_id` is resolved.
create table dependencies (
    job_id text not null,
    on_id text not null,
    primary key (job_id, on_id)
);
create index dependencies_on on dependencies (on_id, job_id);

-- Submissions that may be sent again, kept as long as their jobs: the SHA-256 of their body.
create table idempotency_keys (
    owner text not null,
    key text not null,
    digest text not null,
    primary key (owner, key)
);

-- Deleted jobs whose blocks, groups and outcomes are still to be cleared.
create table trash (
    job_id text primary key
);
