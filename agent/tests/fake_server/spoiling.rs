//! Jobs that spoil, or would spoil, what others find prepared.

use protocol::JobId;
use protocol::agent::JobSpec;
use serde_json::json;

use crate::harness::{TestAgent, integers, python};
use crate::preparing::put_files;
use crate::server::FakeServer;

#[tokio::test]
async fn what_a_worker_writes_is_seen_by_no_other_worker_and_no_later_job() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    // Element 0 spoils everything, and ends when element 1, in another worker, has looked.
    let source = "
import os, time
look = lambda: [open('in/x').read(), sorted(os.listdir('.')), open('made').read()]
def f(x):
    if x == 1:
        while not os.path.exists('@/spoilt'): time.sleep(0.005)
        seen = look()
        open('@/seen', 'w').write('\\n')
        return seen
    open('in/x', 'w').write('spoilt')
    open('new', 'w').write('new')
    os.remove('made')
    open('@/spoilt', 'w').write('\\n')
    while not os.path.exists('@/seen'): time.sleep(0.005)
";
    let mut job = python(source, agent.folder.path());
    job.files = Some(put_files(&server, &[("in/x", "input")]));
    job.prepare = "echo here > made; chmod 500 in".to_owned();
    let leases = [integers(&job, 0, 1), integers(&job, 1, 2)];
    server.grant_together([(leases[0].clone(), &job), (leases[1].clone(), &job)]);
    let pristine = json!(["input", ["in", "made"], "here\n"]);
    server.outcomes(leases[0].id).await;
    assert_eq!(server.outcomes(leases[1].id).await[0].result, Ok(pristine.clone()));
    let source = source.replace("if x == 1:", "if True:");
    let next = JobSpec { id: JobId::new(), ..python(&source, agent.folder.path()) };
    let next = JobSpec { files: job.files, prepare: job.prepare, ..next };
    let leases = [integers(&next, 0, 1), integers(&next, 1, 2)];
    server.grant_together([(leases[0].clone(), &next), (leases[1].clone(), &next)]);
    for lease in &leases {
        assert_eq!(server.outcomes(lease.id).await[0].result, Ok(pristine.clone()));
    }
    agent.stop().await;
}
