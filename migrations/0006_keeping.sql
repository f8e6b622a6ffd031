-- Keeping and clearing: what is old is found without a scan.

-- Blobs that the specification of a job refers to: large constants, its files. `blocks` and
-- `outcomes` say themselves which they refer to.
create table job_blobs (
    job_id text not null,
    digest text not null,
    primary key (job_id, digest)
);
-- Whether anything refers to a blob.
create index job_blobs_digest on job_blobs (digest);
create index blocks_digest on blocks (digest) where digest is not null;
create index outcomes_digest on outcomes (digest) where digest is not null;
-- The specifications of earlier jobs are read at the start of a server, which takes this away.
insert into meta (key, value)
    select 'job_blobs', 'to be read' where exists (select 1 from jobs);

-- The jobs that ended first, and those that have not ended and come after others.
create index jobs_finished on jobs (finished_at, id) where finished_at is not null;
create index jobs_after on jobs (id) where finished_at is null and after_jobs <> '[]';

-- The job that a draft retries: it is not deleted by age meanwhile.
alter table drafts add column source text;
