//! `farrow agents`: who runs the work.

use clap::Args;
use protocol::job::{AgentState, AgentStatus};

use crate::client::Client;
use crate::clock;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::human;
use crate::output::OutputArgs;
use crate::table;

const EXAMPLES: &str = "\
Examples:
  farrow agents
  farrow agents --json | jq '[.[].slots] | add'
";

/// List agents: their slots, runtimes and labels
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Agents {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Agents {
    /// Prints the list.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let agents = client.all_agents().await?;
        self.output.print(&agents, |agents| match agents.is_empty() {
            true => "no agents; start one with `farrow agent --server URL`\n".to_owned(),
            false => list(agents),
        })
    }
}

fn list(agents: &[AgentStatus]) -> String {
    let now = clock::now();
    let row = |agent: &AgentStatus| {
        vec![
            agent.name.clone(),
            agent.state.as_str().to_owned(),
            busy(agent),
            runtimes(agent),
            human::labels(&agent.labels),
            human::ago(&agent.registered_at, now),
            agent.version.clone(),
            agent.id.to_string(),
        ]
    };
    let rows: Vec<_> = agents.iter().map(row).collect();
    table::with_heading(
        &["NAME", "STATE", "BUSY", "RUNTIMES", "LABELS", "SINCE", "VERSION", "AGENT"],
        &rows,
    )
}

/// Slots at work, of how many; of an agent that has gone, nothing is at work.
fn busy(agent: &AgentStatus) -> String {
    match agent.state {
        AgentState::Gone => "-".to_owned(),
        _ => format!("{}/{}", agent.busy, agent.slots),
    }
}

fn runtimes(agent: &AgentStatus) -> String {
    let named =
        agent.runtimes.iter().map(|(runtime, version)| format!("{} {version}", runtime.as_str()));
    named.collect::<Vec<_>>().join(", ")
}
