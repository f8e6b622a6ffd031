-- What a round costs does not grow with the jobs and the agents that it has nothing for.

-- JSON: the runtime and the labels that an agent must have to run the job. Empty: it is not written down,
-- because the job is older or it is too long for an index, and all agents are asked.
alter table jobs add column requires text not null default '';
drop index jobs_runnable;
create index jobs_runnable on jobs (owner, requires, priority desc, id) where runnable;

-- Slots of all live agents, by what these offer. Each server counts them anew when it starts.
create table offers (
    -- JSON: runtimes and labels.
    kind text primary key,
    slots bigint not null
);
