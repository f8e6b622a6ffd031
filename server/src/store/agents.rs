//! Who is there: agents, their heartbeats, their ends.

use std::collections::HashMap;

use protocol::agent::Register;
use protocol::job::{AgentState, AgentStatus};
use protocol::{AgentId, LeaseId};

use super::db::{Row, Tx, args, json_text};
use super::{StoreError, offers};
use crate::clock::{Millis, rfc3339};

/// Milliseconds after which an agent that is gone is forgotten.
const FORGET_AFTER: Millis = 24 * 3600 * 1000;

/// Writes an agent down, or anew when it registers again.
///
/// # Errors
/// The database's.
pub async fn register(
    tx: &mut Tx<'_>,
    agent: &Register,
    now: Millis,
    alive_until: Millis,
) -> Result<(), StoreError> {
    offers::come(tx, agent).await?;
    tx.execute(
        "insert into agents (id, name, state, slots, physical_cores, logical_cores, memory,
             runtimes, labels, version, registered_at, alive_until)
         values ($1, $2, 'live', $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (id) do update set name = excluded.name, state = 'live',
             slots = excluded.slots, physical_cores = excluded.physical_cores,
             logical_cores = excluded.logical_cores, memory = excluded.memory,
             runtimes = excluded.runtimes, labels = excluded.labels, version = excluded.version,
             alive_until = case when agents.alive_until < excluded.alive_until
                 then excluded.alive_until else agents.alive_until end",
        args![
            agent.id,
            agent.name.as_str(),
            agent.slots,
            agent.physical_cores,
            agent.logical_cores,
            agent.memory,
            json_text(&agent.runtimes)?,
            json_text(&agent.labels)?,
            agent.version.as_str(),
            now,
            alive_until
        ],
    )
    .await?;
    Ok(())
}

/// To whom an agent belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// To nobody: it is not known.
    Nobody,
    /// To the token of this id, which registered it.
    Token(String),
    /// To the administrators: it registered before tokens had roles.
    Admins,
}

/// To whom an agent belongs.
///
/// # Errors
/// The database's.
pub async fn holder(tx: &mut Tx<'_>, agent: AgentId) -> Result<Holder, StoreError> {
    let row = tx.first("select token_id from agents where id = $1", args![agent]).await?;
    let Some(row) = row else { return Ok(Holder::Nobody) };
    Ok(row.maybe_text("token_id")?.map_or(Holder::Admins, Holder::Token))
}

/// Gives an agent that was just registered to the token of this id, unless it belongs to one
/// already.
///
/// # Errors
/// The database's.
pub async fn give(tx: &mut Tx<'_>, agent: AgentId, token: &str) -> Result<(), StoreError> {
    tx.execute(
        "update agents set token_id = $2 where id = $1 and token_id is null",
        args![agent, token],
    )
    .await?;
    Ok(())
}

/// The agents of the token of this id that are not gone.
///
/// # Errors
/// The database's.
pub async fn of_token(tx: &mut Tx<'_>, token: &str) -> Result<Vec<AgentId>, StoreError> {
    let rows = tx
        .all(
            "select id from agents where token_id = $1 and state <> 'gone' order by id",
            args![token],
        )
        .await?;
    rows.iter().map(|row| row.id("id")).collect()
}

/// Whether an agent of the token of this id holds a lease under which it may report.
///
/// # Errors
/// The database's.
pub async fn hold_leases(tx: &mut Tx<'_>, token: &str) -> Result<bool, StoreError> {
    let row = tx
        .first(
            "select 1 from agents a where a.token_id = $1 and exists (
                 select 1 from leases
                 where agent_id = a.id and state in ('live', 'lapsed', 'torn')) limit 1",
            args![token],
        )
        .await?;
    Ok(row.is_some())
}

/// What a heartbeat asks about its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: AgentState,
    /// The ids of its live leases.
    pub leases: Vec<LeaseId>,
}

/// The columns of a [`Standing`], of the agent `$1`.
macro_rules! columns_of_standing {
    () => {
        "state, (select '[' || coalesce(string_agg('\"' || id || '\"', ','), '') || ']'
             from leases where agent_id = $1 and state = 'live') as leases"
    };
}
#[cfg(test)]
pub(crate) use columns_of_standing;

/// Extends the life of an agent, or leaves it as long as it is: a heartbeat that was held up takes
/// back nothing that a later one has given. `None`: it is not known or gone, and must register again.
///
/// # Errors
/// The database's.
pub async fn keep_alive(
    tx: &mut Tx<'_>,
    agent: AgentId,
    alive_until: Millis,
) -> Result<Option<Standing>, StoreError> {
    let row = tx
        .first(
            concat!(
                "update agents set alive_until = case when alive_until < $2 then $2 else alive_until end
                 where id = $1 and state <> 'gone' returning ",
                columns_of_standing!()
            ),
            args![agent, alive_until],
        )
        .await?;
    row.as_ref().map(standing_of).transpose()
}

/// Gives every agent another lease: a server that starts lapses nothing at once.
///
/// # Errors
/// The database's.
pub async fn keep_all_alive(tx: &mut Tx<'_>, alive_until: Millis) -> Result<(), StoreError> {
    tx.execute(
        "update agents set alive_until = $1 where state <> 'gone' and alive_until < $1",
        args![alive_until],
    )
    .await?;
    Ok(())
}

/// Takes from an agent what it was given to live from `now` on: it is known to be dead, and [`overdue`].
///
/// # Errors
/// The database's.
pub async fn end_life(tx: &mut Tx<'_>, agent: AgentId, now: Millis) -> Result<(), StoreError> {
    tx.execute(
        "update agents set alive_until = $2
         where id = $1 and state <> 'gone' and alive_until > $2",
        args![agent, now - 1],
    )
    .await?;
    Ok(())
}

/// Moves an agent to `state`, in which it is not live. `false`: there is no such agent.
///
/// # Errors
/// The database's.
pub async fn set_state(
    tx: &mut Tx<'_>,
    agent: AgentId,
    state: AgentState,
) -> Result<bool, StoreError> {
    offers::withdraw(tx, agent).await?;
    let changed = tx
        .execute(
            "update agents set state = $2 where id = $1 and state <> 'gone'",
            args![agent, state.as_str()],
        )
        .await?;
    Ok(changed > 0)
}

/// Those of `agents` that are live, and the bytes of memory that the live leases of each may use. The
/// others must be given nothing.
///
/// # Errors
/// The database's.
pub async fn live(
    tx: &mut Tx<'_>,
    agents: &[AgentId],
) -> Result<HashMap<AgentId, u64>, StoreError> {
    let rows = tx.all(OF_IDS, args![json_text(&agents)?]).await?;
    let mut live = HashMap::with_capacity(rows.len());
    for row in rows {
        if row.text("state")? == AgentState::Live.as_str() {
            live.insert(row.id("id")?, row.count("memory")?);
        }
    }
    Ok(live)
}

/// Without a condition on the state: SQLite would go through all agents that are live rather than look up these.
pub(super) const OF_IDS: &str = "
    select id, state, cast(coalesce((select sum(memory) from leases
         where agent_id = a.id and state = 'live'), 0) as bigint) as memory
    from agents a where id in (select value from json_each($1))";

/// The bytes of memory that live leases may use, by agent.
///
/// # Errors
/// The database's.
pub async fn memory_by_agent(tx: &mut Tx<'_>) -> Result<HashMap<AgentId, u64>, StoreError> {
    let rows = tx
        .all(
            "select agent_id, cast(sum(memory) as bigint) as memory from leases
             where state = 'live' and memory > 0 group by agent_id",
            args![],
        )
        .await?;
    rows.iter().map(|row| Ok((row.id("agent_id")?, row.count("memory")?))).collect()
}

/// The agents that have not been heard of since `now`, and any that is gone and still holds
/// something.
///
/// # Errors
/// The database's.
pub async fn overdue(tx: &mut Tx<'_>, now: Millis) -> Result<Vec<AgentId>, StoreError> {
    let rows = tx
        .all(
            "select id from agents where state in ('live', 'draining') and alive_until < $1
             union
             select a.id from agents a join leases l on l.agent_id = a.id
             where a.state = 'gone' and l.state = 'live'",
            args![now],
        )
        .await?;
    rows.iter().map(|row| row.id("id")).collect()
}

/// Forgets agents that have been gone for a day and hold nothing.
///
/// # Errors
/// The database's.
pub async fn forget_gone(tx: &mut Tx<'_>, now: Millis) -> Result<(), StoreError> {
    tx.execute(
        "delete from agents where state = 'gone' and alive_until < $1
         and not exists (select 1 from leases where agent_id = agents.id)",
        args![now - FORGET_AFTER],
    )
    .await?;
    Ok(())
}

/// All agents that are there, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Agents that take chunks.
    pub live: u64,
    /// Agents that take nothing new.
    pub draining: u64,
    /// Slots of the live ones.
    pub slots: u64,
    /// Slots that hold a lease.
    pub busy: u64,
}

/// What agents there are, together.
///
/// # Errors
/// The database's.
pub async fn totals(tx: &mut Tx<'_>) -> Result<Totals, StoreError> {
    let row = tx
        .first(
            "select cast(coalesce(sum(case when state = 'live' then 1 end), 0) as bigint) as live,
                 cast(coalesce(sum(case when state = 'draining' then 1 end), 0) as bigint)
                     as draining,
                 cast(coalesce(sum(case when state = 'live' then slots end), 0) as bigint) as slots,
                 cast((select coalesce(sum(case when held < a.slots then held else a.slots end), 0)
                     from agents a join (select agent_id, sum(slots) as held from leases where state = 'live' group by agent_id) h
                     on a.id = h.agent_id) as bigint) as busy
             from agents where state <> 'gone'",
            args![],
        )
        .await?;
    let Some(row) = row else { return Ok(Totals::default()) };
    Ok(Totals {
        live: row.count("live")?,
        draining: row.count("draining")?,
        slots: row.count("slots")?,
        busy: row.count("busy")?,
    })
}

/// The slots of an agent that are busy, by its leases. One of these waits only while others keep all slots busy
/// (`spares::begin_ahead`), so that those that wait need not be told from the others here.
macro_rules! busy {
    () => {
        "case when a.slots < (select sum(slots) from leases where agent_id = a.id and state = 'live') then a.slots
             else cast(coalesce((select sum(slots) from leases where agent_id = a.id and state = 'live'), 0) as bigint)
             end"
    };
}

const SELECT_ONE: &str = concat!("select a.*, ", busy!(), " as busy from agents a where id = $1");

const SELECT_PAGE: &str = concat!(
    "select a.*, ",
    busy!(),
    " as busy from agents a where id > $1 and (state <> 'gone' or $3) order by id limit $2"
);

/// What is known of an agent.
///
/// # Errors
/// The database's.
pub async fn find(
    tx: &mut Tx<'_>,
    agent: AgentId,
    now: Millis,
) -> Result<Option<AgentStatus>, StoreError> {
    let row = tx.first(SELECT_ONE, args![agent]).await?;
    row.map(|row| agent_status(&row, now)).transpose()
}

/// How an agent stands, also one that is gone.
///
/// # Errors
/// The database's.
pub async fn standing(tx: &mut Tx<'_>, agent: AgentId) -> Result<Option<Standing>, StoreError> {
    let row = tx
        .first(
            concat!("select ", columns_of_standing!(), " from agents where id = $1"),
            args![agent],
        )
        .await?;
    row.as_ref().map(standing_of).transpose()
}

fn standing_of(row: &Row) -> Result<Standing, StoreError> {
    Ok(Standing { state: state(row)?, leases: row.json("leases")? })
}

/// The agents whose ids come after `after`, at most `limit`; those that are gone on request.
///
/// # Errors
/// The database's.
pub async fn list(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
    with_gone: bool,
    now: Millis,
) -> Result<Vec<AgentStatus>, StoreError> {
    let rows = tx.all(SELECT_PAGE, args![after, limit, with_gone]).await?;
    rows.iter().map(|row| agent_status(row, now)).collect()
}

fn state(row: &Row) -> Result<AgentState, StoreError> {
    let state = row.text("state")?;
    AgentState::parse(&state).ok_or_else(|| StoreError::corrupt("state", &state))
}

fn agent_status(row: &Row, now: Millis) -> Result<AgentStatus, StoreError> {
    Ok(AgentStatus {
        id: row.id("id")?,
        name: row.text("name")?,
        state: state(row)?,
        slots: row.small("slots")?,
        busy: row.small("busy")?,
        physical_cores: row.small("physical_cores")?,
        logical_cores: row.small("logical_cores")?,
        memory: row.count("memory")?,
        runtimes: row.json("runtimes")?,
        labels: row.json("labels")?,
        version: row.text("version")?,
        registered_at: rfc3339(row.int("registered_at")?),
        alive_for: ((row.int("alive_until")? - now).max(0) as f64) / 1000.0,
    })
}
