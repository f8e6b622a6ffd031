//! Reports what is finished: at once when no report is on its way, else with the next one, which
//! takes everything that has come up meanwhile.

use std::sync::Arc;
use std::time::Duration;

use protocol::Problem;
use protocol::agent::Verdict;
use protocol::job::ElementError;
use tokio::time::sleep;

use crate::agent::Agent;
use crate::clock;
use crate::held::Held;
use crate::outbox::Outbox;
use crate::parcel::{self, Parcel};

/// The status by which a server says that a report is too large for it.
pub const TOO_LARGE: u16 = 413;
/// The wait after a refusal that has no known cause.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Reports, for ever.
pub async fn run(agent: Arc<Agent>) {
    loop {
        let parcels = agent.outbox.take().await;
        let ending = parcels.iter().filter(|parcel| parcel.may_end_job);
        agent.logs.hurry(&ending.map(|parcel| parcel.piece.job).collect::<Vec<_>>()).await;
        report(&agent, parcels).await;
        agent.outbox.reported();
    }
}

/// Reports these parcels until each has been judged.
async fn report(agent: &Agent, parcels: Vec<Arc<Parcel>>) {
    let mut stack = vec![parcels];
    while let Some(parcels) = stack.pop() {
        let began = clock::now();
        match agent.client.report(&parcels).await {
            Ok(reported) => {
                agent.slots.note_way(clock::now() - began);
                judge(&agent.outbox, &agent.held, &parcels, &reported.verdicts);
                agent.pool.forget(&reported.ended);
                agent.jobs.ended(&reported.ended);
            }
            Err(problem) if problem.status == TOO_LARGE => stack.extend(smaller(parcels, &problem)),
            Err(problem) => {
                tracing::error!(%problem, "the server refuses a report; trying again");
                sleep(AFTER_REFUSAL).await;
                stack.push(parcels);
            }
        }
    }
}

fn judge(outbox: &Outbox, held: &Held, parcels: &[Arc<Parcel>], verdicts: &[Verdict]) {
    for (parcel, verdict) in parcels.iter().zip(verdicts) {
        if *verdict == Verdict::Stale {
            // Lanes stop first, so that nothing is put in behind the discarding for long; what is
            // will be judged stale as well.
            held.revoke(&[parcel.piece.lease]);
            outbox.discard(parcel.piece.lease);
        }
    }
    outbox.settle(parcels);
}

/// What to send in place of a report that is too large: each parcel by itself, a single one in
/// parts, and in place of a single outcome an error, because the server will never take it.
pub fn smaller(parcels: Vec<Arc<Parcel>>, problem: &Problem) -> Vec<Vec<Arc<Parcel>>> {
    match &parcels[..] {
        [parcel] if parcel.piece.lengths.len() == 1 => {
            let message = format!(
                "its outcome ({} bytes, and what it printed) is larger than the server accepts: {}",
                parcel.body.len(),
                problem.detail
            );
            let kind = "TooLarge".to_owned();
            let error =
                ElementError { kind, message, call: None, traceback: Vec::new(), fatal: false };
            vec![vec![Arc::new(parcel::replace(parcel, &error))]]
        }
        [parcel] => {
            parcel::split(parcel).into_iter().rev().map(|part| vec![Arc::new(part)]).collect()
        }
        _ => parcels.into_iter().rev().map(|parcel| vec![parcel]).collect(),
    }
}
