-- Jobs by their state, those that go on and those that have ended apart. In one index the few that are queued stood
-- between the many that have ended: whenever one came or went SQLite balanced these, six pages for each call.
drop index jobs_state;
drop index jobs_owner_state;
create index jobs_state_going on jobs (state, id) where finished_at is null;
create index jobs_state_ended on jobs (state, id) where finished_at is not null;
create index jobs_owner_going on jobs (owner, state, id) where finished_at is null;
create index jobs_owner_ended on jobs (owner, state, id) where finished_at is not null;
