//! By which indexes SQLite reads what is read often, from tables of which it needs few rows.

use super::super::db::args;
use super::super::{
    agents, audit, jobs, logs, objects, outcomes, references, runnable, spares, trash, uploads,
};
use super::{Fixture, read};

/// How SQLite goes about a statement, a step a line.
async fn plan_of(fixture: &Fixture, sql: &'static str) -> String {
    let explain: &'static str = Box::leak(format!("explain query plan {sql}").into_boxed_str());
    let rows = read!(fixture, |tx| tx.all(explain, args![]));
    rows.iter().map(|row| row.text("detail").unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_is_read_often_is_found_by_an_index() {
    let fixture = Fixture::new().await;
    for (sql, steps) in [
        (runnable::RETURNED, vec!["leases USING INDEX leases_returned (job_id=?)"]),
        (runnable::USAGE, vec!["leases USING COVERING INDEX leases_live (job_id=?)"]),
        (
            runnable::OPEN,
            vec![
                "jobs USING INDEX jobs_runnable (owner>?)",
                "jobs USING INDEX jobs_runnable (owner=? AND requires>?)",
            ],
        ),
        (runnable::SOUGHT, vec!["leases USING INDEX leases_spare"]),
        (runnable::ANY_OPEN, vec!["jobs USING INDEX jobs_runnable"]),
        (
            runnable::ANY_SOUGHT,
            vec!["jobs USING INDEX jobs_runnable", "leases USING COVERING INDEX leases_spare"],
        ),
        (
            agents::OF_IDS,
            vec![
                "a USING INDEX sqlite_autoindex_agents_1 (id=?)",
                "leases USING INDEX leases_agent (agent_id=? AND state=?)",
            ],
        ),
        (spares::LARGEST, vec!["leases USING INDEX leases_spare"]),
        (runnable::SLOTS_BY_OWNER, vec!["j USING INDEX jobs_state_going (state=?)"]),
        (outcomes::BY_INDEX_WITH_ERRORS, vec!["outcomes_failed (job_id=? AND first>?)"]),
        (outcomes::BY_RANK_WITH_ERRORS, vec!["outcomes_failed_rank (job_id=? AND rank>?)"]),
        (
            logs::MAY_SPEAK,
            vec![
                "logs USING COVERING INDEX logs_agent (job_id=? AND agent_id=?)",
                "outcomes USING COVERING INDEX outcomes_agent (job_id=? AND agent_id=?)",
            ],
        ),
        (jobs::SELECT_PAGE_OF_OWNER, vec!["j USING INDEX jobs_owner (owner=? AND id<?)"]),
        (
            jobs::SELECT_PAGE_OF_OWNER_GOING,
            vec!["j USING INDEX jobs_owner_going (owner=? AND state=? AND id<?)"],
        ),
        (
            jobs::SELECT_PAGE_OF_OWNER_ENDED,
            vec!["j USING INDEX jobs_owner_ended (owner=? AND state=? AND id<?)"],
        ),
        (audit::SELECT_PAGE, vec!["audit USING INDEX sqlite_autoindex_audit_1"]),
        (
            audit::SELECT_PAGE_OF_OBJECT,
            vec!["audit USING INDEX audit_object (object_id=? AND id<?)"],
        ),
        (
            references::UNREFERENCED,
            vec![
                "blocks USING COVERING INDEX blocks_digest (digest=?)",
                "outcomes USING COVERING INDEX outcomes_digest (digest=?)",
                "job_blobs USING COVERING INDEX job_blobs_digest (digest=?)",
                "artifacts USING COVERING INDEX artifacts_digest (digest=?)",
            ],
        ),
        (objects::GET, vec!["objects USING INDEX sqlite_autoindex_objects_1 (digest=?)"]),
        (objects::OLD, vec!["objects_found_at ((found_at,digest)>(?,?) AND found_at<?)"]),
        (
            uploads::HAS,
            vec![
                "uploads USING COVERING INDEX sqlite_autoindex_uploads_1 (owner=? AND digest=?)",
                "a USING COVERING INDEX artifacts_digest (digest=?)",
                "j USING COVERING INDEX jobs_owner (owner=? AND id=?)",
            ],
        ),
        (
            trash::ENDED_BEFORE,
            vec![
                "j USING INDEX jobs_finished ((finished_at,id)>(?,?) AND finished_at<?)",
                "needs USING COVERING INDEX needs_on (on_id=?)",
                "drafts USING COVERING INDEX drafts_source (source=?)",
                "r USING INDEX sqlite_autoindex_jobs_1 (id=?)",
            ],
        ),
        (jobs::SELECT_PAGE_GOING, vec!["j USING INDEX jobs_state_going (state=? AND id<?)"]),
        (jobs::SELECT_PAGE_ENDED, vec!["j USING INDEX jobs_state_ended (state=? AND id<?)"]),
    ] {
        let plan = plan_of(&fixture, sql).await;
        for step in steps {
            assert!(plan.contains(step), "{sql}\nis not read by {step}, but so:\n{plan}");
        }
        let sorts = plan.contains("TEMP B-TREE FOR ORDER BY");
        assert!(!sorts, "{sql}\nsorts all rows to find the first:\n{plan}");
    }
}
