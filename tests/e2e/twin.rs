//! The same lines as GNU parallel, for who comes from there.

use std::fs;
use std::process::{Command, Stdio};

use tests::World;

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn identify_says_of_pictures_what_it_says_under_gnu_parallel() {
    let world = World::start().await;
    let _agent = world.agent_with("one", 2, &["--runtime", "command"]).await;
    let folder = world.path("pictures");
    fs::create_dir_all(folder.join("more of them")).unwrap();
    for (name, size) in [("a.png", "3x2"), ("b'c.png", "10x10"), ("more of them/d.png", "7x1")] {
        let status =
            Command::new("convert").args(["-size", size, "xc:red"]).arg(folder.join(name)).status();
        assert!(status.unwrap().success());
    }
    let found = stdout(Command::new("find").arg(&folder).args(["-name", "*.png"]));
    let mut parallel = Command::new("parallel");
    let parallel = parallel.args(["--will-cite", "-k", "identify", "{}"]).stdin(Stdio::piped());
    let mut twin = parallel.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(twin.stdin.as_mut().unwrap(), found.as_bytes()).unwrap();
    let twin = twin.wait_with_output().unwrap();
    let mapped = world
        .farrow_with_input(&["map", "--runtime", "command", "--", "identify", "{}"], &found)
        .await;
    assert_eq!(mapped.code, Some(0), "{}", mapped.stderr);
    // `identify` tells the seconds of processor time that it took, which differ from run to run.
    let still = |lines: &str| -> Vec<String> {
        lines
            .lines()
            .map(|line| line.rsplitn(3, ' ').last().unwrap_or_default().to_owned())
            .collect()
    };
    let (ours, theirs) = (still(&mapped.stdout), still(&String::from_utf8(twin.stdout).unwrap()));
    assert_eq!(ours.len(), 3);
    assert_eq!(ours, theirs);
}
