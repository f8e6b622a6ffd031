-- Jobs that are written down in slices and are not yet there for anybody: a retry of many pieces. What
-- a server that was killed has left of them is cleared at the next start.
create table drafts (
    job_id text primary key
);
