-- What a deletion by age looks up: for each job whether another needs it, without reading those.

-- The jobs that one that has not ended was submitted to come after, resolved or not: they stay as long.
create table needs (
    job_id text not null,
    on_id text not null,
    primary key (job_id, on_id)
);
create index needs_on on needs (on_id, job_id);
-- `after_jobs` is an array of UUIDs without a space: each takes 39 characters with its quotes and comma.
with recursive each (job_id, list, k) as (
    select id, after_jobs, 0 from jobs where finished_at is null and after_jobs <> '[]'
    union all
    select job_id, list, k + 1 from each where length(list) > 39 * (k + 2)
)
insert into needs (job_id, on_id) select distinct job_id, substr(list, 39 * k + 3, 36) from each;
-- Nobody reads all of them any more.
drop index jobs_after;

create index drafts_source on drafts (source, job_id);
