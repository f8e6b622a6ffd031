//! The same lines as GNU parallel, for who comes from there.

use std::fs::{self, File};
use std::process::Command;

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
    // Paths that mean something only in the folder where the command was typed.
    let found = stdout(Command::new("find").args(["-name", "*.png"]).current_dir(&folder));
    assert!(found.starts_with("./"), "{found}");
    fs::write(world.path("found"), &found).unwrap();
    let input = || File::open(world.path("found")).unwrap();
    let mut parallel = Command::new("parallel");
    parallel.args(["--will-cite", "-k", "identify", "{}"]).stdin(input()).current_dir(&folder);
    let twin = stdout(&mut parallel);
    let mut map = world.command(&["map", "--runtime", "command", "--", "identify", "{}"]);
    let mapped = world.spawn("map", map.stdin(input()).current_dir(&folder)).finished().await;
    assert_eq!(mapped.code, Some(0), "{}", mapped.stderr);
    // `identify` tells the seconds of processor time that it took, which differ from run to run.
    let still = |lines: &str| -> Vec<String> {
        lines
            .lines()
            .map(|line| line.rsplitn(3, ' ').last().unwrap_or_default().to_owned())
            .collect()
    };
    let (ours, theirs) = (still(&mapped.stdout), still(&twin));
    assert_eq!(ours.len(), 3);
    assert_eq!(ours, theirs);
}
