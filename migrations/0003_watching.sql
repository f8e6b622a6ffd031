-- What those who watch a job read: the order in which outcomes came, and what was said meanwhile.

-- How many outcomes of the job were accepted before the first of this row. With `n` the rows of a
-- job tile 0 up to all that were accepted.
alter table outcomes add column rank bigint not null default 0;
-- The agent's name: agents that are long gone are forgotten, what they did is not.
alter table outcomes add column agent_name text not null default '';

-- The order in which earlier outcomes came was not kept: that of the elements stands for it.
update outcomes set rank = ranked.before from (
    select job_id, first, sum(n) over (partition by job_id order by first) - n as before
    from outcomes
) as ranked
where outcomes.job_id = ranked.job_id and outcomes.first = ranked.first;
update outcomes set agent_name = coalesce((select name from agents where id = agent_id), '');

create unique index outcomes_rank on outcomes (job_id, rank);
-- Few rows hold errors, and who looks for them must not read the others.
create index outcomes_failed on outcomes (job_id, first) where errors <> '[]';
create index outcomes_failed_rank on outcomes (job_id, rank) where errors <> '[]';
-- Whether an agent, which now speaks of the job, has run anything of it.
create index outcomes_agent on outcomes (job_id, agent_id);

-- What jobs say while they run: prints, messages, warnings, the logs of `prepare` and `setup`.
create table logs (
    job_id text not null,
    -- Bytes that the job had said with the last line of this row: the cursor of that line. Every
    -- line counts as its text and one byte. Rows of a job follow one another without a gap; the
    -- oldest are deleted when there are too many.
    ends bigint not null,
    bytes bigint not null,
    agent_id text not null,
    agent_name text not null,
    -- LZ4 of JSON: the lines.
    data bytea not null,
    primary key (job_id, ends)
);
create index logs_agent on logs (job_id, agent_id);

-- The last batch of log lines that was accepted from the agent.
alter table agents add column log_batch bigint not null default 0;
