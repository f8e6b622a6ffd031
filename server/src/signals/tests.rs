use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use protocol::job::JobState;
use protocol::job::Runtime;
use tokio::task::JoinHandle;

use super::*;
use crate::BlobsAt;
use crate::CheckOptions;
use crate::http::caller::Caller;
use crate::http::wait::JobWaiter;
use crate::scheduler::assign::Agent;
use crate::state::tests::opened_with;
use crate::store::tests::{collecting, register};
use crate::store::{agents, ends};

/// Ends only what hangs.
const HANG: Duration = Duration::from_secs(120);

/// Two servers on one database, of which nothing runs yet.
struct Two {
    one: AppState,
    other: AppState,
    _folder: tempfile::TempDir,
}

impl Two {
    async fn new() -> Self {
        let url = ::tests::postgres::Postgres::shared().create_database();
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        let flags = ["--database-url", &url, "--blobs", blobs.to_str().unwrap()];
        let one = opened_with(folder.path(), &flags).await;
        let other = opened_with(folder.path(), &flags).await;
        Self { one, other, _folder: folder }
    }

    /// Both tell, and both hear.
    async fn connected() -> Self {
        let two = Self::new().await;
        for state in [&two.one, &two.other] {
            tokio::spawn(run(state.clone(), state.shutdown.clone()));
        }
        two.hears(&two.one, &two.other).await;
        two.hears(&two.other, &two.one).await;
        two
    }

    /// Returns once `to` hears what `from` tells.
    async fn hears(&self, from: &AppState, to: &AppState) {
        let probe = JobId::new();
        let heard = to.log_watchers.register(&probe);
        let heard = heard.notified();
        tokio::pin!(heard);
        let telling = async {
            loop {
                from.log_watchers.wake(&probe);
                tokio::time::sleep(COLLECT).await;
            }
        };
        let telling = tokio::time::timeout(HANG, telling);
        tokio::select! {
            () = &mut heard => {}
            _ = telling => panic!("no note arrives"),
        }
    }

    /// A job that both know.
    async fn job(&self) -> JobId {
        let job = collecting(3);
        let id = job.id;
        let store = &self.one.store;
        store.write(|tx| Box::pin(async move { jobs::insert(tx, job, 5).await })).await.unwrap();
        id
    }
}

/// Waits at `state` for the end of `job`, and has looked once when this returns.
async fn waiting(state: &AppState, job: JobId) -> JoinHandle<JobState> {
    let token = std::fs::read_to_string(state.config.data.join(crate::TOKEN_FILE)).unwrap();
    let caller = Caller::admin(token.trim());
    let mut waiter = JobWaiter::for_end(state, &caller, job, HANG).unwrap();
    assert!(!waiter.look().await.unwrap().state.is_final());
    tokio::spawn(async move {
        while waiter.has_news().await {
            let now = waiter.look().await.unwrap().state;
            if now.is_final() {
                return now;
            }
        }
        panic!("nobody told of the end")
    })
}

async fn cancel(state: &AppState, job: JobId) -> ends::Ended {
    let ended = state.store.write(move |tx| {
        Box::pin(async move { ends::end(tx, job, JobState::Cancelled, None, 8).await })
    });
    ended.await.unwrap()
}

#[tokio::test]
async fn who_waits_at_one_server_is_told_of_what_happens_at_another() {
    let two = Two::new().await;
    // Neither looks by itself.
    let outbound = two.one.outbound.clone().unwrap();
    let (one, other) = (two.one.clone(), two.other.clone());
    tokio::spawn(async move { send(&one, &outbound).await });
    tokio::spawn(async move { hear(&other, "nobody").await });
    two.hears(&two.one, &two.other).await;

    let job = two.job().await;
    let waiting = waiting(&two.other, job).await;
    let ends::Ended::Now(ending) = cancel(&two.one, job).await else { panic!("it had ended") };
    two.one.all_ended(&ending);
    assert_eq!(waiting.await.unwrap(), JobState::Cancelled);
}

#[tokio::test]
async fn what_a_server_that_was_killed_did_not_tell_is_found() {
    let two = Two::new().await;
    let job = two.job().await;
    let waiting = waiting(&two.other, job).await;
    let other = two.other.clone();
    tokio::spawn(async move { look(&other).await });
    cancel(&two.one, job).await;
    assert_eq!(waiting.await.unwrap(), JobState::Cancelled);
}

#[tokio::test]
async fn an_agent_waits_for_work_at_one_server_only() {
    let two = Two::connected().await;
    let agent = register(4);
    let (id, slots) = (agent.id, agent.slots);
    two.one
        .store
        .write(move |tx| Box::pin(async move { agents::register(tx, &agent, 0, 1000).await }))
        .await
        .unwrap();
    let waiter = Agent {
        id,
        free: slots,
        ahead: 0,
        slots,
        memory: 1 << 34,
        free_memory: 1 << 34,
        runtimes: vec![Runtime::Python],
        labels: BTreeMap::new(),
    };
    let forever = Duration::from_secs(1 << 20);
    let ask = |state: &AppState| {
        let (dispatcher, waiter) = (state.dispatcher.clone(), waiter.clone());
        tokio::spawn(async move { dispatcher.wait_for_work(waiter, &[], forever).await })
    };
    let first = ask(&two.one);
    while two.one.dispatcher.n_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    // What was told of that has arrived, too.
    two.hears(&two.one, &two.other).await;
    // Its connection breaks without the server noticing, and it asks the other one.
    let second = ask(&two.other);
    let answered = tokio::time::timeout(HANG, first).await.expect("it still waits there");
    assert_eq!(answered.unwrap().unwrap().grants, []);
    assert_eq!((two.one.dispatcher.n_waiting(), two.other.dispatcher.n_waiting()), (0, 1));
    second.abort();
}

#[tokio::test]
async fn servers_with_blobs_of_their_own_are_refused() {
    let two = Two::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let claimed = crate::shared_blobs::claim(&two.one.store, elsewhere.path()).await;
    assert!(claimed.unwrap_err().to_string().contains("--blobs"));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    // Nor are the blobs of one looked for in another's folder: all would be missing, or none.
    let check = async |blobs: &Path| {
        let settings = &two.one.config.settings;
        let options = CheckOptions {
            data: two.one.config.data.clone(),
            database_url: settings.database_url.clone(),
            blobs: Some(BlobsAt::Folder(blobs.to_owned())),
            deep: true,
        };
        crate::check(options).await
    };
    let BlobsAt::Folder(folder) = two.one.config.blobs() else { panic!("a folder") };
    assert_eq!(check(&folder).await.unwrap().n_findings, 0);
    for folder in [elsewhere.path(), &elsewhere.path().join("none")] {
        let refused = check(folder).await.unwrap_err().to_string();
        assert!(refused.contains("is not the folder of this database's blobs"), "{refused}");
    }
}

#[test]
fn every_note_fits_and_none_of_many_is_left_out() {
    for n in [0, 1, MAX_IDS, MAX_IDS + 1, MAX_IDS * MAX_NOTES] {
        let ids: BTreeSet<String> = (0..n).map(|_| JobId::new().to_string()).collect();
        let ids = BTreeMap::from([(Topic::Moved, ids)]);
        let note = Note { from: JobId::new().to_string(), ids, work: true, ..Note::default() };
        let parts = split(note.clone());
        let named: BTreeSet<String> =
            parts.iter().flat_map(|part| part.ids.values().flatten().cloned()).collect();
        assert_eq!(named.len(), n);
        assert_eq!(parts.iter().filter(|part| part.work).count(), 1);
        for part in parts {
            let text = serde_json::to_string(&part).unwrap();
            assert!(text.len() < 8000, "{} bytes", text.len());
            assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), part);
        }
    }
}

#[test]
fn of_more_than_can_be_named_all_are_to_look() {
    let ids = (0..=MAX_IDS * MAX_NOTES).map(|i| i.to_string()).collect();
    let note = Note { ids: BTreeMap::from([(Topic::Said, ids)]), ..Note::default() };
    assert_eq!(split(note), [Note { all: true, ..Note::default() }]);
}

#[tokio::test]
async fn what_is_told_meanwhile_goes_together_and_once() {
    let outbound = Outbound::new();
    for _ in 0..2 {
        outbound.tell(Topic::Moved, &"a");
    }
    outbound.tell(Topic::Ended, &"a");
    outbound.work();
    let notes = outbound.take().await;
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!(note.ids.values().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1]);
    assert!(note.work && !note.agents && !note.all);
}
