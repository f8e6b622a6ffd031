//! What falls on whom, how it is made good, and what it may cost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::clock::wall_millis;
use tests::recount::{Execution, REPORTED_WITHIN};
use tests::wait::until;
use tests::world::LEASE_SECONDS;
use tests::{Audit, Chance, Database, Flow, Postgres, Process, Recount};

use super::cell::Scene;

/// For how many leases something is stopped, or away.
const STOPPED_LEASES: f64 = 1.5;
/// For how many leases something is cut off.
const CUT_OFF_LEASES: f64 = 3.0;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL. Servers and databases are started again, as their supervisors do.
    Kill,
    /// SIGKILL, and all servers are away for one and a half leases.
    Outage,
    /// SIGSTOP, and SIGCONT one and a half leases later.
    Stop,
    /// What the agent says does not arrive, for three leases.
    CutRequests,
    /// What the agent is answered does not arrive, for three leases.
    CutAnswers,
}

/// To whom it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One that runs an element.
    Worker,
    /// The first of two.
    Agent,
    /// The only one, or one of two.
    Server,
    /// All of PostgreSQL.
    Database,
    /// `farrow map`, which waits.
    Client,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "killed",
            Self::Outage => "killed and away for 1.5 leases",
            Self::Stop => "stopped for 1.5 leases",
            Self::CutRequests => "not heard for 3 leases",
            Self::CutAnswers => "not answered for 3 leases",
        })
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Agent => "agent",
            Self::Server => "server",
            Self::Database => "database",
            Self::Client => "client",
        })
    }
}

/// A blow that has fallen.
#[derive(Default)]
pub struct Struck {
    /// When, in milliseconds since 1970.
    pub at: Option<u64>,
    hit: Hit,
    undo: Undo,
}

/// Whose executions may be repeated.
#[derive(Clone, Copy, Default)]
enum Hit {
    /// Nobody's.
    #[default]
    Nobody,
    /// Nobody's; but agents are not heard meanwhile.
    Everybody,
    /// This worker's, those that were in flight.
    Worker(Pid),
    /// This agent's, those that were in flight.
    Agent(Pid),
    /// This agent's, those that were in flight, and what it started before it learned that it had
    /// been leased anew.
    LivingAgent(Pid),
}

/// What makes a blow good later.
#[derive(Default)]
enum Undo {
    #[default]
    Nothing,
    Resume(Pid),
    ResumeDatabase(Arc<Postgres>),
    Reconnect,
}

impl Blow {
    /// The cells of a deployment.
    pub fn strikes(database: Database) -> Vec<(Self, Victim)> {
        use Victim::{Agent, Client, Database as TheDatabase, Server, Worker};
        let all = [Worker, Agent, Server, TheDatabase, Client];
        let mut strikes: Vec<(Self, Victim)> = all.map(|victim| (Self::Kill, victim)).into();
        strikes.push((Self::Outage, Server));
        strikes.extend(all.map(|victim| (Self::Stop, victim)));
        strikes.extend([(Self::CutRequests, Agent), (Self::CutAnswers, Agent)]);
        // A database in a file has no process.
        strikes.retain(|(_, victim)| *victim != TheDatabase || database == Database::Postgres);
        strikes
    }

    /// Strikes; or gives nothing when the map was over first.
    pub async fn strike(
        self,
        victim: Victim,
        scene: &mut Scene,
        audit: &Audit,
        chance: &mut Chance,
    ) -> Option<Struck> {
        if scene.client.as_mut().is_some_and(Process::has_ended) {
            return None;
        }
        Some(match self {
            Self::Kill => kill_it(victim, scene, audit, chance).await?,
            Self::Outage => take_down(scene).await,
            Self::Stop => stop_it(victim, scene, audit, chance).await?,
            Self::CutRequests => {
                scene.network.iter().for_each(|network| network.requests(Flow::Held));
                cut_off(scene)
            }
            Self::CutAnswers => {
                scene.network.iter().for_each(|network| network.answers(Flow::Held));
                cut_off(scene)
            }
        })
    }
}

impl Struck {
    fn now(hit: Hit, undo: Undo) -> Self {
        Self { at: Some(wall_millis()), hit, undo }
    }

    /// Makes it good when its time is over.
    pub async fn make_good(&self, scene: &Scene) {
        let n_leases = match self.undo {
            Undo::Nothing => return,
            Undo::Resume(_) | Undo::ResumeDatabase(_) => STOPPED_LEASES,
            Undo::Reconnect => CUT_OFF_LEASES,
        };
        // Not for luck: that so much time passes is the blow.
        tokio::time::sleep(Duration::from_secs_f64(LEASE_SECONDS * n_leases)).await;
        match &self.undo {
            Undo::Nothing => {}
            Undo::Resume(pid) => kill(*pid, Signal::SIGCONT).expect("what is stopped is there"),
            Undo::ResumeDatabase(postgres) => postgres.resume(),
            Undo::Reconnect => {
                for network in &scene.network {
                    network.requests(Flow::Open);
                    network.answers(Flow::Open);
                }
            }
        }
    }

    /// The names of the agents that may be given up for it; `None` if any may.
    pub fn may_lose(&self) -> Option<&'static [&'static str]> {
        match self.hit {
            Hit::Agent(_) | Hit::LivingAgent(_) => Some(&["one"]),
            Hit::Everybody => None,
            Hit::Nobody | Hit::Worker(_) => Some(&[]),
        }
    }

    /// Whether an execution was in flight on what was struck.
    pub fn is_in_flight(&self, execution: &Execution) -> bool {
        let is_there = match self.hit {
            Hit::Nobody | Hit::Everybody => false,
            Hit::Worker(pid) => execution.worker == pid,
            Hit::Agent(pid) | Hit::LivingAgent(pid) => execution.agent == pid,
        };
        is_there && self.at.is_some_and(|at| execution.is_in_flight(at))
    }

    /// Whether the blow is why an element has been run so often: one of two executions was in
    /// flight on what was struck.
    pub fn excuses(&self, executions: &[&Execution]) -> bool {
        let is_late = |e: &Execution| match self.hit {
            Hit::LivingAgent(pid) => {
                let ended = e.ended_at.unwrap_or(u64::MAX);
                e.agent == pid
                    && self.at.is_some_and(|at| ended.saturating_add(REPORTED_WITHIN) >= at)
            }
            _ => false,
        };
        executions.len() == 2 && executions.iter().any(|e| self.is_in_flight(e) || is_late(e))
    }
}

async fn kill_it(
    victim: Victim,
    scene: &mut Scene,
    audit: &Audit,
    chance: &mut Chance,
) -> Option<Struck> {
    Some(match victim {
        Victim::Worker => {
            let worker = running(audit, scene, chance).await?.worker;
            kill(worker, Signal::SIGKILL).expect("a worker that runs is there");
            Struck::now(Hit::Worker(worker), Undo::Nothing)
        }
        Victim::Agent => {
            let agent = &mut scene.agents[0].process;
            agent.kill();
            Struck::now(Hit::Agent(agent.pid()), Undo::Nothing)
        }
        Victim::Server => {
            let server_idx = chance.between(0, scene.world.n_servers());
            scene.world.server_at(server_idx).kill();
            let struck = Struck::now(Hit::Nobody, Undo::Nothing);
            // Of two, the other one goes on alone.
            if scene.world.n_servers() == 1 {
                scene.world.restart_at(server_idx).await;
            }
            struck
        }
        Victim::Database => {
            let postgres = scene.world.postgres().expect("the database has a process");
            let struck = Struck::now(Hit::Nobody, Undo::Nothing);
            let again = move || {
                postgres.kill();
                postgres.restart();
            };
            tokio::task::spawn_blocking(again).await.expect("the database starts again");
            struck
        }
        Victim::Client => {
            let mut client = scene.client.take().expect("the client waits");
            client.kill();
            assert_eq!(client.stdout(), "", "a client has said what it cannot know");
            Struck::now(Hit::Nobody, Undo::Nothing)
        }
    })
}

/// Kills all servers. When they are back, leases have run out by the clock, but not one agent could
/// say that it lives: none may be given up, and nothing may run again.
async fn take_down(scene: &mut Scene) -> Struck {
    let server_idxs = 0..scene.world.n_servers();
    server_idxs.clone().for_each(|server_idx| scene.world.server_at(server_idx).kill());
    let struck = Struck::now(Hit::Nobody, Undo::Nothing);
    tokio::time::sleep(Duration::from_secs_f64(LEASE_SECONDS * STOPPED_LEASES)).await;
    for server_idx in server_idxs {
        scene.world.restart_at(server_idx).await;
    }
    struck
}

async fn stop_it(
    victim: Victim,
    scene: &mut Scene,
    audit: &Audit,
    chance: &mut Chance,
) -> Option<Struck> {
    let (pid, hit) = match victim {
        Victim::Worker => (running(audit, scene, chance).await?.worker, Hit::Nobody),
        Victim::Agent => {
            let pid = scene.agents[0].process.pid();
            (pid, Hit::LivingAgent(pid))
        }
        Victim::Server => {
            let server_idx = chance.between(0, scene.world.n_servers());
            (scene.world.server_at(server_idx).pid(), Hit::Everybody)
        }
        Victim::Database => {
            let postgres = scene.world.postgres().expect("the database has a process");
            postgres.pause();
            return Some(Struck::now(Hit::Everybody, Undo::ResumeDatabase(postgres)));
        }
        Victim::Client => {
            let client = scene.client.as_ref().expect("the client waits");
            (client.pid(), Hit::Nobody)
        }
    };
    kill(pid, Signal::SIGSTOP).expect("what is to be stopped is there");
    Some(Struck::now(hit, Undo::Resume(pid)))
}

fn cut_off(scene: &Scene) -> Struck {
    Struck::now(Hit::LivingAgent(scene.agents[0].process.pid()), Undo::Reconnect)
}

/// One of the executions that have not ended; none when the map is over.
async fn running(audit: &Audit, scene: &mut Scene, chance: &mut Chance) -> Option<Execution> {
    until("an element runs", async || {
        let recount = Recount::of(audit);
        let is_open = |e: &&Execution| e.ended_at.is_none();
        let open: Vec<&Execution> = recount.executions().iter().filter(is_open).collect();
        if open.is_empty() {
            let is_over = scene.client.as_mut().is_some_and(Process::has_ended);
            return is_over.then_some(None);
        }
        Some(Some((*chance.pick(&open)).clone()))
    })
    .await
}
