//! A cable between two network namespaces: what runs in one reaches the other through the kernel's
//! own TCP, and routes that lead nowhere cut it in either direction. Root alone may lay one.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Uid;
use tokio::net::TcpListener;

/// Counts the cables of this process.
static N_CABLES: AtomicU32 = AtomicU32::new(0);

/// Two namespaces and what joins them. They end when it is dropped.
#[derive(Debug)]
pub struct Cable {
    names: [String; 2],
    addresses: [Ipv4Addr; 2],
}

/// An end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where a program is.
    Near,
    /// Where its server is.
    Far,
}

impl Cable {
    /// Lays a cable; or says, and gives none, that this user may not.
    ///
    /// # Panics
    /// When root may not either.
    pub fn lay() -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: only root may make network namespaces");
            return None;
        }
        let n = N_CABLES.fetch_add(1, Ordering::Relaxed);
        let names = ["near", "far"].map(|end| format!("farrow-{}-{n}-{end}", process::id()));
        // Nobody else sees these addresses, so they can be the same for every cable.
        let addresses = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
        let cable = Self { names, addresses };
        for name in &cable.names {
            ip(&["netns", "add", name]);
        }
        let [near, far] = &cable.names;
        ip(&[
            "-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
            far,
        ]);
        for (name, address) in cable.names.iter().zip(cable.addresses) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["-n", name, "link", "set", "cable", "up"]);
        }
        Some(cable)
    }

    /// The address of an end.
    pub fn address(&self, end: End) -> Ipv4Addr {
        match end {
            End::Near => self.addresses[0],
            End::Far => self.addresses[1],
        }
    }

    /// Listens at the far end.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn listen(&self) -> TcpListener {
        let namespace = File::open(format!("/run/netns/{}", self.names[1])).expect("a namespace");
        let address = self.address(End::Far);
        // A thread of its own moves there and ends; the socket stays there.
        let listening = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may move to a namespace");
            std::net::TcpListener::bind((address, 0)).expect("a port is free")
        });
        let listener = listening.join().expect("the thread ends well");
        listener.set_nonblocking(true).expect("a socket can be told not to block");
        TcpListener::from_std(listener).expect("a listener can be waited for")
    }

    /// The same command, run at the near end. Only the variables that it sets itself are kept.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.names[0])).arg("--");
        inside.arg(command.get_program()).args(command.get_args()).env_clear();
        inside.stdin(process::Stdio::null());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }

    /// What this end sends leads nowhere from now on.
    pub fn cut(&self, from: End) {
        let (name, to) = self.way(from);
        ip(&["-n", name, "route", "add", "blackhole", &format!("{to}/32")]);
    }

    /// Makes a [`cut`](Self::cut) good.
    pub fn mend(&self, from: End) {
        let (name, to) = self.way(from);
        ip(&["-n", name, "route", "delete", "blackhole", &format!("{to}/32")]);
    }

    fn way(&self, from: End) -> (&str, Ipv4Addr) {
        match from {
            End::Near => (&self.names[0], self.address(End::Far)),
            End::Far => (&self.names[1], self.address(End::Near)),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made need not go.
            Command::new("ip").args(["netns", "delete", name]).output().ok();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("there is a program ip: `make setup` installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {said}");
}
