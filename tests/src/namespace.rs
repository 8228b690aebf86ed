//! A network for one test, with settings that affect no other.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use rpm_loadtest::Stop;
use rpm_testkit::{Load, Report, fixture, skip};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::entering;

/// A network namespace with a loopback device; removed when dropped.
#[derive(Debug)]
pub struct Network {
    keeper: Child,
}

impl Network {
    /// Creates a namespace and runs `setup` (shell) in it. `None` without root; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it is not possible.
    #[must_use]
    pub fn new(test: &str, setup: &str) -> Option<Network> {
        let script = format!("ip link set lo up && {setup} && echo up && exec cat");
        let mut keeper = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut said = String::new();
        let output = keeper.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("its output can be read");
        let network = Network { keeper };
        if said.trim() == "up" {
            return Some(network);
        }
        skip(
            test,
            "no network namespace can be made here (root, unshare and ip are needed)",
        );
        None
    }

    /// The command, run in the namespace.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        entering("--net", self.keeper.id(), command)
    }

    /// Sends a load from the namespace and returns the report.
    ///
    /// # Panics
    /// The namespace cannot be entered.
    #[must_use]
    pub fn send(&self, load: &Load) -> Report {
        self.begin(load, &Stop::new()).join().expect("the load ends")
    }

    /// Starts to send a load from the namespace. The report comes when it ends or is stopped.
    ///
    /// # Panics
    /// The namespace cannot be entered.
    #[must_use]
    pub fn begin(&self, load: &Load, stop: &Stop) -> JoinHandle<Report> {
        let place = File::open(format!("/proc/{}/ns/net", self.keeper.id())).expect("the namespace");
        let (load, stop) = (load.clone(), stop.clone());
        // Only this thread changes its namespace; the test's other threads stay.
        thread::spawn(move || {
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(load.run(&stop))
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Two namespaces, and a path between them that delays packets and loses some.
#[derive(Debug)]
pub struct Path {
    /// The server's, with the address [`Path::SERVER`].
    pub server: Network,
    /// The clients'.
    pub client: Network,
    relay: Child,
}

impl Path {
    /// The address of the server.
    pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// Creates a path. Packets are delayed in each direction by `delay_ms`, more or less `jitter_ms`, and `loss_percent` are lost. `None`
    /// without root; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it is not possible.
    #[must_use]
    pub fn new(test: &str, delay_ms: u32, jitter_ms: u32, loss_percent: u32) -> Option<Path> {
        let [server, client] = [Network::new(test, "true")?, Network::new(test, "true")?];
        let mut relay = Command::new("python3")
            .arg(fixture("relay.py"))
            .args([&server, &client].map(|network| network.keeper.id().to_string()))
            .args([delay_ms, jitter_ms, loss_percent].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = String::new();
        let output = relay.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("its output can be read");
        let path = Path {
            server,
            client,
            relay,
        };
        if said.trim() != "ready" {
            skip(test, "no TUN devices can be had here");
            return None;
        }
        for (network, address) in [(&path.server, "10.77.0.1/24"), (&path.client, "10.77.0.2/24")] {
            for args in [
                &["addr", "add", address, "dev", "relay0"][..],
                &["link", "set", "relay0", "up"],
            ] {
                let mut ip = Command::new("ip");
                let done = network.inside(ip.args(args)).status().expect("nsenter runs");
                assert!(done.success(), "ip {args:?}");
            }
        }
        Some(path)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}
