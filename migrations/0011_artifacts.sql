-- Artifacts: files that elements leave behind, as blobs.

-- Blobs that are listed in the outcome of an element, in its note: each row is a reference to one. It is
-- written and copied with the outcome.
create table artifacts (
    job_id text not null,
    element bigint not null,
    digest text not null,
    primary key (job_id, element, digest)
);
-- Whether anything refers to a blob, and who may read it.
create index artifacts_digest on artifacts (digest, job_id);
