//! `farrow drain`: let agents finish what they run, and leave.

use clap::Args;
use protocol::AgentId;
use protocol::job::AgentStatus;
use serde::Serialize;

use crate::client::Client;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::OutputArgs;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

const EXAMPLES: &str = "\
Examples:
  farrow drain node-7
  farrow agents --json | jq -r '.[] | select(.labels.zone == \"b\").id' | xargs farrow drain

An agent that is drained takes nothing new, gives what it runs the time of its --grace (100 s) to be
finished, gives the rest back, and ends with exit code 0. It costs no element a retry. An
administrator's token is needed.
";

/// Drain agents: each finishes what it runs, takes nothing new, and leaves
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Drain {
    /// The agents, by their ids or names; a name that several have stands for all of them
    #[arg(required = true, value_name = "ID|NAME")]
    agents: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// An agent that was told to leave.
#[derive(Serialize)]
struct Drained {
    id: AgentId,
    draining: bool,
}

impl Drain {
    /// Drains one agent after the other; stops at the first that cannot be.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let (mut drained, mut refused) = (Vec::new(), None);
        for agent in &self.agents {
            if let Err(failure) = drain(&client, agent, &mut drained).await {
                refused = Some(failure);
                break;
            }
        }
        self.output.print(&drained, |drained| {
            drained.iter().map(|drained| format!("{}  is draining\n", drained.id)).collect()
        })?;
        refused.map_or(Ok(()), Err)
    }
}

async fn drain(client: &Client, agent: &str, drained: &mut Vec<Drained>) -> Result<(), Failure> {
    let screen = Screen::plain();
    let ids = match agent.parse() {
        Ok(id) => vec![id],
        Err(_) => called(client, &screen, agent).await?,
    };
    for id in ids {
        persist(&screen, Patience::Brief, async || client.drain(id).await).await?;
        drained.push(Drained { id, draining: true });
    }
    Ok(())
}

/// The agents that are there and are called so.
async fn called(client: &Client, screen: &Screen, name: &str) -> Result<Vec<AgentId>, Failure> {
    let agents = persist(screen, Patience::Brief, async || client.all_agents().await).await?;
    let ids: Vec<_> =
        agents.iter().filter(|agent: &&AgentStatus| agent.name == name).map(|a| a.id).collect();
    if ids.is_empty() {
        return Err(Failure::new(Exit::Server, format!("there is no agent called {name:?}"))
            .remedy("`farrow agents` lists the agents that there are"));
    }
    Ok(ids)
}
