//! The scripts that make EC2 instances agents, as far as they can be run without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::certificates::Authority;
use tests::wait::until;
use tests::{World, process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ec2").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `install-agent.sh` writes to the file of this name.
fn written(name: &str) -> String {
    let script = read(&script("install-agent.sh"));
    let from = script.find(&format!("{name} <<'")).expect("the script writes this file");
    let (head, body) = script[from..].split_once('\n').expect("lines");
    let end = head.rsplit('\'').nth(1).expect("a here-document has an end");
    let (body, _) = body.split_once(&format!("\n{end}\n")).expect("the end comes");
    format!("{body}\n")
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("and made a program");
}

/// An instance metadata service that knows version 2 only, and of a notice once the file is there.
async fn serve_metadata(listener: TcpListener, notice: PathBuf) {
    loop {
        let Ok((connection, _)) = listener.accept().await else { return };
        drop(answer_metadata(connection, &notice).await);
    }
}

async fn answer_metadata(mut connection: TcpStream, notice: &Path) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let has_token = request.contains("x-aws-ec2-metadata-token: the-session");
    let answer = match request.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["put", "/latest/api/token"] if request.contains("ttl-seconds: ") => "200 OK",
        ["get", "/latest/meta-data/spot/instance-action"] if !has_token => "401 Unauthorized",
        ["get", "/latest/meta-data/spot/instance-action"] if notice.exists() => "200 OK",
        _ => "404 Not Found",
    };
    let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 11\r\nconnection: close\r\n\r\n");
    connection.write_all(format!("{head}the-session").as_bytes()).await
}

#[tokio::test]
async fn a_spot_instance_that_is_taken_away_stops_its_agent() {
    let world = World::start().await;
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    let stopped = world.path("stopped");
    let systemctl = format!("#!/bin/sh\necho \"$@\" > {}\n", stopped.display());
    write_program(&programs.join("systemctl"), &systemctl);
    let watcher = world.path("farrow-spot");
    write_program(&watcher, &written("/usr/local/sbin/farrow-spot"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let notice = world.path("notice");
    let service = tokio::spawn(serve_metadata(listener, notice.clone()));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(&watcher);
    command.env("PATH", path).env("IMDS", address).env("PAUSE", "0.1").env("NO_PROXY", "*");
    let mut watching = world.spawn("spot", &mut command);

    fs::write(notice, "").unwrap();
    assert_eq!(watching.finished().await.code, Some(0));
    assert_eq!(fs::read_to_string(stopped).unwrap(), "stop farrow-agent\n");
    service.abort();
}

#[tokio::test]
async fn the_units_are_sound_and_the_one_shown_is_the_one_written() {
    let shown = read(&script("../ec2.md"));
    let (_, shown) = shown.split_once("```ini\n").expect("the unit is shown");
    let (shown, _) = shown.split_once("```").expect("the block ends");
    let unit = written("/etc/systemd/system/farrow-agent.service");
    assert!(unit.contains(shown), "docs/ec2.md shows\n{shown}\nthe script writes\n{unit}");

    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not installed: the units are not verified");
        return;
    }
    let world = World::start().await;
    let program = process::program().display().to_string();
    for name in ["farrow-agent.service", "farrow-spot.service"] {
        let unit = written(&format!("/etc/systemd/system/{name}"));
        // The verifier wants programs that are there.
        let unit = unit.replace("/usr/local/bin/farrow ", &format!("{program} "));
        let unit = unit.replace("/usr/local/sbin/farrow-spot", "/bin/true");
        fs::write(world.path(name), unit).unwrap();
        let verified = Command::new("systemd-analyze").arg("verify").arg(world.path(name)).output();
        let verified = verified.unwrap();
        let complaints = String::from_utf8_lossy(&verified.stderr);
        assert!(!complaints.contains(name), "{complaints}");
    }
}

/// `install-agent.sh` under stand-ins of the programs that change a machine.
#[tokio::test]
async fn an_installed_agent_is_told_where_its_server_is_and_checks_its_program() {
    let world = World::start().await;
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let installed = world.path("root");
    let text = read(&script("install-agent.sh"));
    // Every place that the script writes to, under a folder of this test.
    let text = ["/etc/", "/usr/local/"]
        .iter()
        .fold(text, |text, place| text.replace(place, &format!("{}{place}", installed.display())));
    for folder in ["etc/systemd/system", "usr/local/bin", "usr/local/sbin"] {
        fs::create_dir_all(installed.join(folder)).unwrap();
    }
    for name in ["apt-get", "useradd", "systemctl"] {
        let log = world.path("called").display().to_string();
        write_program(&programs.join(name), &format!("#!/bin/sh\necho {name} \"$@\" >> {log}\n"));
    }
    let script = world.path("install-agent.sh");
    fs::write(&script, text).unwrap();

    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new("bash");
        command.arg(&script).env("PATH", &path).env("NO_PROXY", "*").envs(variables.to_vec());
        command.output().unwrap()
    };
    let program = process::program().display().to_string();
    let server = ("FARROW_URL", world.url());
    let refused = run(&[server, ("FARROW_PROGRAM", &program)]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("FARROW_TOKEN"));

    let token = ("FARROW_TOKEN", tests::token());
    let label = ("FARROW_LABEL", "zone=a,kind=two words");
    let authority = Authority::new();
    let pem = read(Path::new(&authority.file()));
    let ca = ("FARROW_CA", pem.trim_end());
    let done = run(&[server, token, label, ca, ("FARROW_PROGRAM", &program), ("SPOT", "yes")]);
    assert!(done.status.success(), "{done:?}");
    let called = read(&world.path("called"));
    for call in
        ["r-base-core", "systemctl restart farrow-agent", "systemctl enable --now farrow-spot"]
    {
        assert!(called.contains(call), "{call} in {called}");
    }
    let settings = installed.join("etc/farrow/agent.env");
    assert_eq!(fs::metadata(&settings).unwrap().permissions().mode() & 0o777, 0o600);
    let settings = read(&settings);
    assert!(settings.contains("FARROW_LABEL=\"zone=a,kind=two words\"\n"), "{settings}");

    let kept = installed.join("etc/farrow-ca.pem");
    assert_eq!(read(&kept), pem);
    assert!(settings.contains(&format!("FARROW_CA_FILE=\"{}\"\n", kept.display())), "{settings}");

    // systemd reads that file as the shell does, as far as we use it.
    let agent = installed.join("usr/local/bin/farrow");
    let start = format!(
        "set -a; . {}; exec {} agent --name installed --slots 1 --runtime python",
        installed.join("etc/farrow/agent.env").display(),
        agent.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &start]).env("HOME", world.path("")).env("NO_PROXY", "*");
    let _agent = world.spawn("installed", &mut command);
    until("the agent is there", async || {
        let agents = world.client.get("/v1/agents").await.json();
        (agents["items"][0]["labels"]["kind"] == "two words").then_some(())
    })
    .await;
}
