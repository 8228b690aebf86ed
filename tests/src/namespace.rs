//! A network of the test's own, whose settings nobody else feels.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;

use rpm_loadtest::Stop;
use rpm_testkit::{Load, Report, skip};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with a loopback device; gone when dropped.
#[derive(Debug)]
pub struct Network {
    keeper: Child,
}

impl Network {
    /// Makes one and runs `setup` (shell) in it. `None` where only root may; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it cannot be had.
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

    /// The same command, run inside.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--net", "--target", &self.keeper.id().to_string(), "--"]);
        entered
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir("/")
            .stdin(Stdio::null());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(key, value),
                None => entered.env_remove(key),
            };
        }
        entered
    }

    /// Sends a load from inside and returns its account.
    ///
    /// # Panics
    /// The namespace cannot be entered.
    #[must_use]
    pub fn send(&self, load: &Load) -> Report {
        let place = File::open(format!("/proc/{}/ns/net", self.keeper.id())).expect("the namespace");
        let load = load.clone();
        // Only this thread moves: the others of the test stay where they are.
        let sender = thread::spawn(move || {
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(load.run(&Stop::new()))
        });
        sender.join().expect("the load ends")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
