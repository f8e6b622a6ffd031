//! One cell: a deployment, two agents, a map, a client that waits for it, a blow, and the auditor.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tests::audit::{as_command, taking};
use tests::clock::{Stopwatch, wall_millis};
use tests::procfs::{self, is_alive};
use tests::recount::{Execution, RESULT};
use tests::stalls::Stalls;
use tests::world::Agent;
use tests::{Audit, Chance, Database, Process, Proxy, Recount, World};

use super::blow::{Blow, Struck, Victim};

/// The variable that chooses cells: those whose name contains its text.
const CHOICE: &str = "FARROW_CELL";

/// The variable that chooses the first moment, by its number.
const MOMENT: &str = "FARROW_MOMENT";

/// Slots of each of the two agents.
const SLOTS: u32 = 2;

/// A machine on which a thread wakes so late stood still for a good part of the second within which
/// outcomes must be reported.
const STALL: Duration = Duration::from_millis(300);

/// How large the map is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Elements.
    pub n_elements: u32,
    /// What each takes.
    pub seconds: f64,
}

/// What is struck, how, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The deployment.
    pub database: Database,
    /// What happens; nothing, for comparison.
    pub strike: Option<(Blow, Victim)>,
    /// Counts the moments of the same cell.
    pub moment: usize,
}

/// What came of a cell.
#[derive(Clone, Debug)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// Values that the client got.
    pub n_delivered: usize,
    /// Elements that ran again although they had been finished and reported when the blow fell.
    pub run_again: BTreeSet<String>,
    /// Elements that ran more than once.
    pub twice: BTreeSet<String>,
    /// Of these, those that were not in flight on what was struck.
    pub twice_without_reason: Vec<Vec<Execution>>,
    /// Elements that were in flight on what was struck.
    pub n_in_flight: usize,
    /// Elements that had been finished for a second when the blow fell, and not been reported.
    pub late: BTreeSet<String>,
    /// Whether the map was over before the blow could fall.
    pub is_missed: bool,
    /// How often an agent was given up that nothing had happened to.
    pub n_given_up: usize,
    /// From the submission to the value.
    pub seconds: f64,
    /// How many processes a core of the machine had to serve at the end, over the last minute.
    pub load: f64,
    /// For how long the machine stood still, at the most.
    pub stall: Duration,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database.name();
        match self.strike {
            Some((blow, victim)) => write!(f, "{database}: {victim} {blow}"),
            None => write!(f, "{database}: undisturbed"),
        }
    }
}

impl Cell {
    /// Every cell, each with so many moments, of those that are asked for.
    pub fn chosen(n_moments: usize) -> Vec<Self> {
        let choice = env::var(CHOICE).unwrap_or_default();
        let first = env::var(MOMENT).map_or(0, |moment| {
            moment.parse().unwrap_or_else(|_| panic!("{MOMENT} is {moment:?}, must be a number"))
        });
        let mut cells = Vec::new();
        for &database in Database::ALL {
            let strikes = Blow::strikes(database).into_iter().map(Some);
            for strike in [None].into_iter().chain(strikes) {
                cells.extend((first..first + n_moments).map(|moment| Self {
                    database,
                    strike,
                    moment,
                }));
            }
        }
        cells.retain(|cell| cell.to_string().contains(&choice));
        assert!(!cells.is_empty(), "no cell is called {choice:?}");
        cells
    }

    /// Runs it.
    pub async fn run(self, size: Size, mut chance: Chance) -> Row {
        let mut scene = Scene::set_up(self.database).await;
        let stalls = Stalls::watch();
        let audit = Audit::new(&scene.world, "map");
        let job = audit.python(&json!({"range": [0, size.n_elements]}), RESULT);
        let job = taking(size.seconds, job);
        let mut words = as_command(&job, size.n_elements);
        words.insert(1, "--quiet".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let stopwatch = Stopwatch::start();
        let map = scene.world.spawn("map", &mut scene.world.command(&words));
        scene.client = Some(map);
        audit.started(1).await;
        let id = scene.job().await;
        let mut before = Before::default();
        let struck = match self.strike {
            Some((blow, victim)) => {
                // Neither the first nor the last are running, and within the time of an element.
                let n_started = chance.between(SLOTS as usize * 2, size.n_elements as usize - 4);
                audit.started(n_started).await;
                let into_it = Duration::from_secs_f64(chance.share() * size.seconds);
                tokio::time::sleep(into_it).await;
                before = Before::look(&scene.world, &id).await;
                blow.strike(victim, &mut scene, &audit, &mut chance).await
            }
            None => Some(Struck::default()),
        };
        let is_missed = struck.is_none();
        let struck = struck.unwrap_or_default();
        let client = scene.client.take();
        let waiting = async { (scene.value(client, &id).await, stopwatch.elapsed()) };
        let ((value, elapsed), ()) = tokio::join!(waiting, struck.make_good(&scene));
        // What comes late changes nothing: the value is read again when all have had their say.
        scene.settle().await;
        let client = scene.world.answering().await;
        assert_eq!(client.value(&id).await, Value::from(value.clone()), "{self}");
        let recount = Recount::of(&audit);
        recount.check(&client, &id, &value, size.n_elements as usize).await;
        let mut given_up = scene.world.given_up();
        given_up.retain(|name, _| struck.may_lose().is_some_and(|lost| !lost.contains(&&**name)));
        let repeated = recount.repeated();
        let has_reason = |executions: &Vec<&Execution>| struck.excuses(executions);
        let without = repeated.values().filter(|executions| !has_reason(executions));
        let in_flight = recount.executions().iter().filter(|e| struck.is_in_flight(e));
        Row {
            cell: self,
            n_delivered: value.len(),
            run_again: recount.run_again_after(struck.at.unwrap_or(0)),
            twice: repeated.keys().map(|element| (*element).to_owned()).collect(),
            twice_without_reason: without
                .map(|executions| executions.iter().map(|e| (*e).clone()).collect())
                .collect(),
            n_in_flight: in_flight.count(),
            late: recount.late(before.at, &before.accepted),
            is_missed,
            n_given_up: given_up.into_values().sum(),
            seconds: elapsed.as_secs_f64(),
            load: procfs::load_of_a_core(),
            stall: stalls.longest(),
        }
    }
}

/// What a client could see just before the blow.
#[derive(Default)]
struct Before {
    /// When it was asked for.
    at: u64,
    /// The elements of which there was an outcome.
    accepted: BTreeSet<String>,
}

impl Before {
    async fn look(world: &World, job: &str) -> Self {
        let at = wall_millis();
        let outcomes = world.client.get(&format!("/v1/jobs/{job}/outcomes")).await.text();
        let indexes = outcomes.lines().map(|line| {
            let outcome: Value = serde_json::from_str(line).expect("an outcome is JSON");
            outcome["index"].to_string()
        });
        Self { at, accepted: indexes.collect() }
    }
}

impl Row {
    /// Whether it says nothing: the map was over before the blow could fall, or what went wrong
    /// went wrong on a machine that was too slow for it.
    pub fn is_void(&self) -> bool {
        self.is_disturbed() || self.is_missed && self.repeats_no_more_than_terms_explain()
    }

    /// Whether the machine was too busy for the terms under which anything must hold: outcomes
    /// were not reported within a second, or an agent did not come to say within a lease that it
    /// lives. On one that is not busy, that is a failure like any other.
    pub fn is_disturbed(&self) -> bool {
        let breaks_terms = self.is_missed || !self.late.is_empty() || self.n_given_up > 0;
        self.was_slow() && breaks_terms && self.repeats_no_more_than_terms_explain()
    }

    fn was_slow(&self) -> bool {
        self.load > procfs::BUSY || self.stall > STALL
    }

    /// Whether all that ran again had been reported late, or had been an agent's that was given up.
    fn repeats_no_more_than_terms_explain(&self) -> bool {
        let were_late = self.run_again.is_subset(&self.late);
        self.n_given_up > 0 || were_late && self.twice_without_reason.is_empty()
    }

    /// What must hold and did not.
    pub fn faults(&self) -> Vec<&'static str> {
        // Nothing was lost: how late all is says nothing of a slow machine.
        let is_punctual = !self.was_slow();
        let faults = [
            (self.is_missed, "the map was over before the blow could fall"),
            (!self.run_again.is_empty(), "what was reported ran again"),
            (!self.twice_without_reason.is_empty(), "what was not in flight there ran twice"),
            (
                is_punctual && !self.late.is_empty(),
                "what was finished was not reported in a second",
            ),
            (is_punctual && self.n_given_up > 0, "an agent was given up for nothing"),
        ];
        faults.into_iter().filter_map(|(is_so, fault)| is_so.then_some(fault)).collect()
    }
}

/// All that a cell consists of.
pub struct Scene {
    /// Servers and database.
    pub world: World,
    /// The agents.
    pub agents: [Agent; 2],
    /// The networks between the first agent and each of the servers.
    pub network: Vec<Proxy>,
    /// `farrow map`, while it waits.
    pub client: Option<Process>,
}

impl Scene {
    async fn set_up(database: Database) -> Self {
        let world = World::start_on(database, &[], &[]).await;
        // A way of its own to each server.
        let mut network = Vec::new();
        for url in world.urls() {
            network.push(Proxy::start(&[url]).await);
        }
        let through: Vec<String> = network.iter().map(|proxy| proxy.url().to_owned()).collect();
        let [one, two] = [("one", through), ("two", world.urls())].map(|(name, urls)| {
            let label = format!("agent={name}");
            let flags = ["--runtime", "python", "--label", &label];
            (name, world.agent_command(&urls, name, SLOTS, &flags))
        });
        let start = async |(name, mut command)| world.agent_by_command(name, &mut command).await;
        let agents = tokio::join!(start(one), start(two));
        Self { world, agents: agents.into(), network, client: None }
    }

    /// The id of the only job.
    async fn job(&self) -> String {
        let jobs = self.world.answering().await.get("/v1/jobs").await.json();
        assert_eq!(jobs["items"].as_array().map(Vec::len), Some(1), "{jobs:#}");
        jobs["items"][0]["id"].as_str().expect("a job has an id").to_owned()
    }

    /// What the waiting client prints in the end; or, if it was killed, another one.
    async fn value(&self, client: Option<Process>, job: &str) -> Vec<Value> {
        let finished = match client {
            Some(mut client) => client.finished().await,
            None => self.world.farrow(&["value", "--quiet", job]).await,
        };
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let lines = finished.stdout.lines();
        lines.map(|line| serde_json::from_str(line).expect("a value is JSON")).collect()
    }

    /// Waits until every agent that lives has nothing left to say of what it ran: it takes new work
    /// only when it has got rid of the old, and reports in order.
    async fn settle(&mut self) {
        let client = self.world.answering().await;
        for agent in &self.agents {
            if !is_alive(agent.process.pid()) {
                continue;
            }
            let (function, options) = ("lambda x: x", json!({"labels": {"agent": agent.name}}));
            let job = json!({
                "runtime": "python", "function": function, "elements": [1, 2, 3, 4],
                "options": options,
            });
            assert_eq!(client.run(&job).await, json!([1, 2, 3, 4]));
        }
    }
}
