//! What live agents offer, and what jobs require of agents, as they stand in the database.
//!
//! Agents come and go much more rarely than rounds ask for the slots that share a job's work. So these
//! are counted when an agent comes, changes or goes, and a round reads a row for each kind of agent.

use std::collections::BTreeMap;

use protocol::job::{AgentState, Runtime};
use protocol::{AgentId, agent::Register};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::db::{Row, Tx, args, json_text};
use crate::scheduler::requirements::{Offer, Requirements};

/// Bytes of a text at the most that stands in an index.
const LONGEST: usize = 1000;

/// [`Requirements`] as text.
#[derive(Serialize, Deserialize)]
struct Required {
    runtime: Runtime,
    labels: BTreeMap<String, String>,
}

/// What agents that are alike offer, as text.
#[derive(Serialize, Deserialize, Default)]
struct Kind {
    runtimes: Vec<Runtime>,
    labels: BTreeMap<String, String>,
}

/// What a job requires, as it is written down: nothing if that is too long for an index.
///
/// # Errors
/// None that can be.
pub(super) fn required(
    runtime: Runtime,
    labels: &BTreeMap<String, String>,
) -> Result<String, StoreError> {
    let text = json_text(&Required { runtime, labels: labels.clone() })?;
    Ok(if text.len() > LONGEST { String::new() } else { text })
}

/// The column `requires`.
pub(super) fn requirements(row: &Row) -> Result<Requirements, StoreError> {
    if row.text("requires")?.is_empty() {
        return Ok(Requirements::default());
    }
    let Required { runtime, labels } = row.json("requires")?;
    Ok(Requirements::new(runtime, labels))
}

/// What live agents offer.
///
/// # Errors
/// The database's.
pub async fn all(tx: &mut Tx<'_>) -> Result<Vec<Offer>, StoreError> {
    let rows = tx.all("select kind, slots from offers where slots > 0", args![]).await?;
    let offer = |row: &Row| {
        let Kind { runtimes, labels } = row.json("kind")?;
        Ok(Offer { runtimes, labels, slots: row.count("slots")? })
    };
    rows.iter().map(offer).collect()
}

/// Counts what an agent offers as it is about to be written down, in the place of what it has offered.
///
/// # Errors
/// The database's.
pub(super) async fn come(tx: &mut Tx<'_>, agent: &Register) -> Result<(), StoreError> {
    withdraw(tx, agent.id).await?;
    let runtimes = agent.runtimes.keys().copied().collect();
    add(tx, &kind_of(runtimes, agent.labels.clone())?, i64::from(agent.slots)).await
}

/// Counts no more what an agent offers that is about to be in another state than live.
///
/// # Errors
/// The database's.
pub(super) async fn withdraw(tx: &mut Tx<'_>, agent: AgentId) -> Result<(), StoreError> {
    let row = tx
        .first(
            "select slots, runtimes, labels from agents where id = $1 and state = $2",
            args![agent, AgentState::Live.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    add(tx, &kind_of_row(&row)?, -row.int("slots")?).await
}

/// Counts all offers anew, from the agents.
///
/// # Errors
/// The database's.
pub async fn recount(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let offers = recounted(tx).await?;
    tx.execute("delete from offers", args![]).await?;
    for (kind, slots) in offers {
        add(tx, &kind, slots).await?;
    }
    Ok(())
}

/// The slots that live agents offer, by kind, as a recount of the agents gives them.
///
/// # Errors
/// The database's.
pub(super) async fn recounted(tx: &mut Tx<'_>) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut offers: BTreeMap<String, i64> = BTreeMap::new();
    let rows = tx
        .all(
            "select slots, runtimes, labels from agents where state = $1",
            args![AgentState::Live.as_str()],
        )
        .await?;
    for row in rows {
        *offers.entry(kind_of_row(&row)?).or_default() += row.int("slots")?;
    }
    Ok(offers)
}

/// The slots that live agents offer, by kind, as they are written down.
///
/// # Errors
/// The database's.
pub(super) async fn written(tx: &mut Tx<'_>) -> Result<BTreeMap<String, i64>, StoreError> {
    let rows = tx.all("select kind, slots from offers", args![]).await?;
    rows.iter().map(|row| Ok((row.text("kind")?, row.int("slots")?))).collect()
}

async fn add(tx: &mut Tx<'_>, kind: &str, slots: i64) -> Result<(), StoreError> {
    tx.execute(
        "insert into offers (kind, slots) values ($1, $2)
         on conflict (kind) do update set slots = offers.slots + excluded.slots",
        args![kind, slots],
    )
    .await?;
    // Labels may be an agent's own: what nobody offers any more must not stay.
    if slots < 0 {
        tx.execute("delete from offers where kind = $1 and slots <= 0", args![kind]).await?;
    }
    Ok(())
}

fn kind_of_row(row: &Row) -> Result<String, StoreError> {
    let runtimes: BTreeMap<Runtime, String> = row.json("runtimes")?;
    kind_of(runtimes.into_keys().collect(), row.json("labels")?)
}

/// Labels that are too long for an index are left out, so that the agent's slots count only for jobs that
/// require none.
fn kind_of(runtimes: Vec<Runtime>, labels: BTreeMap<String, String>) -> Result<String, StoreError> {
    let text = json_text(&Kind { runtimes: runtimes.clone(), labels })?;
    if text.len() <= LONGEST {
        return Ok(text);
    }
    json_text(&Kind { runtimes, labels: BTreeMap::new() })
}
