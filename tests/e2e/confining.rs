//! What code of jobs sees of the program that runs it, and as whom it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;
use serde_json::{Value, json};
use tests::{World, token};

/// What code can find of the secrets of its agent: its own environment, and of everybody else what
/// can be read of arguments and environments.
const SEARCH: &str = "
import os, glob
def f(x):
    found = [dict(os.environ)]
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try: found.append(open(path).read())
        except OSError: pass
    for path in ['/proc/self/environ', f'/proc/{os.getppid()}/environ']:
        try: found.append(open(path).read())
        except OSError: pass
    return found
";

#[tokio::test]
async fn no_token_is_in_the_workers_environment_nor_in_anybodys_arguments() {
    let world = World::start().await;
    let _agent = world.python_agent("agent", 1).await;
    let job = json!({ "runtime": "python", "function": SEARCH, "elements": [1] });
    let found = world.client.run(&job).await.to_string();
    assert!(found.contains("PATH") && found.contains("supervise"), "{found}");
    assert!(!found.contains(token()), "{found}");
}

#[tokio::test]
async fn workers_of_an_agent_of_root_are_another_user_in_every_runtime() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can start processes of another user");
        return;
    }
    let world = World::start().await;
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let scratch = world.path("scratch").display().to_string();
    let agent =
        world.agent_with("agent", 1, &["--worker-user", "nobody", "--scratch", &scratch]).await;
    for (runtime, function) in [
        ("r", json!("function(x) system('id -un', intern = TRUE)")),
        ("python", json!("import getpass, os, pwd\nlambda x: pwd.getpwuid(os.getuid()).pw_name")),
        ("command", json!(["id", "-un"])),
    ] {
        let job = json!({
            "runtime": runtime, "function": function, "elements": [1],
            "prepare": "id -un > who && test \"$(cat who)\" = nobody",
        });
        let value: Value = world.client.run(&job).await;
        assert_eq!(value, json!(["nobody"]), "{runtime}");
    }
    assert!(!agent.process.stderr().contains("workers run as root"), "{}", agent.process.stderr());
}

#[tokio::test]
async fn a_worker_user_that_is_not_there_is_refused() {
    let world = World::start().await;
    let arguments = ["agent", "--server", world.url(), "--worker-user", "no-such-user-here"];
    let refused = world.farrow(&arguments).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let expected = if geteuid().is_root() { "useradd" } else { "only root" };
    assert!(refused.stderr.contains(expected), "{refused:?}");
}
