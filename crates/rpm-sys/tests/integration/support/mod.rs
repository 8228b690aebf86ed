//! What the tests of this crate share.

use std::ffi::OsString;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rpm_sys::ebpf::Selector;
use rpm_sys::socket::{accept_queue, bind_tcp, listen, local_addr, reserve_port};
use rpm_sys::spawn::{Child, Spawn, SpawnError, spawn};
use rpm_sys::{PidFd, Signal};

/// Far beyond what any of it takes, for a loaded machine.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// Looks until `look` is satisfied; fails with the last thing seen.
pub(crate) fn wait_until<T: std::fmt::Debug>(mut look: impl FnMut() -> Result<(), T>) {
    let began = Instant::now();
    while let Err(seen) = look() {
        assert!(began.elapsed() < BOUND, "still not so after {BOUND:?}: {seen:?}");
        std::thread::yield_now();
    }
}

/// `condition`, as [`wait_until`] wants it.
pub(crate) fn so(condition: bool) -> Result<(), ()> {
    if condition { Ok(()) } else { Err(()) }
}

/// The next connection, which a client has made: the last packet of its handshake may not have been processed yet.
pub(crate) fn accepted(listener: &OwnedFd) -> OwnedFd {
    let mut accepted = None;
    wait_until(|| {
        accepted = rpm_sys::socket::accept(listener).unwrap();
        so(accepted.is_some())
    });
    accepted.unwrap()
}

/// A pipe: where to read, and two descriptors to write to.
pub(crate) fn output() -> (std::fs::File, OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let second = writer.try_clone().unwrap();
    (reader.into(), writer, second)
}

/// A spawn of `program` whose output nobody wants.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Spawn {
    let null = || OwnedFd::from(std::fs::File::options().write(true).open("/dev/null").unwrap());
    Spawn {
        program: program.into(),
        argv: [program].iter().chain(arguments).map(OsString::from).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/".into(),
        stdout: null(),
        stderr: null(),
        stdin: None,
        fds: Vec::new(),
        listen_fds: 0,
        nofile: None,
        intercept: false,
        user: None,
        no_new_privileges: false,
    }
}

/// A shell.
pub(crate) fn shell(script: &str) -> Spawn {
    command("/bin/sh", &["-c", script])
}

/// Runs it to its end and returns what it printed.
pub(crate) fn run(what: Spawn) -> String {
    let (mut reader, stdout, stderr) = output();
    let child = spawn(Spawn {
        stdout,
        stderr,
        ..what
    })
    .unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    wait_until(|| child.pidfd.try_wait().map(|status| so(status.is_some())).unwrap());
    text
}

/// A child that is killed and reaped with the value.
pub(crate) struct Victim(pub(crate) Child);

impl Victim {
    pub(crate) fn of(what: Spawn) -> Result<Victim, SpawnError> {
        spawn(what).map(Victim)
    }

    pub(crate) fn pidfd(&self) -> &PidFd {
        &self.0.pidfd
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = rpm_sys::tree::kill_group(self.0.pid, Signal::KILL);
        let began = Instant::now();
        while matches!(self.0.pidfd.try_wait(), Ok(None)) && began.elapsed() < BOUND {
            std::thread::yield_now();
        }
    }
}

/// A group of listening slots on one loopback port.
pub(crate) struct Slots {
    pub(crate) address: SocketAddr,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Slots {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let reserved = reserve_port(any, false).unwrap();
        let address = local_addr(&reserved).unwrap();
        let fds: Vec<OwnedFd> = (0..count).map(|_| bind_tcp(address, false).unwrap()).collect();
        for fd in &fds {
            listen(fd, 4096).unwrap();
        }
        Slots { address, fds }
    }

    pub(crate) fn connect(&self, count: usize) -> Vec<TcpStream> {
        (0..count)
            .map(|_| TcpStream::connect_timeout(&self.address, BOUND).unwrap())
            .collect()
    }

    /// Queue lengths, once they sum up to `total`.
    pub(crate) fn queues(&self, total: usize) -> Vec<u32> {
        let mut lengths = Vec::new();
        wait_until(|| {
            lengths = self.fds.iter().map(|fd| accept_queue(fd).unwrap().len).collect();
            if lengths.iter().sum::<u32>() as usize == total {
                Ok(())
            } else {
                Err(lengths.clone())
            }
        });
        lengths
    }

    /// Accepts everything that waits, answers each with one byte, and says how many came from each slot.
    pub(crate) fn serve(&self) -> Vec<usize> {
        let serve = |fd: &OwnedFd| {
            let mut served = 0;
            while let Some(connection) = rpm_sys::socket::accept(fd).unwrap() {
                rustix::io::write(&connection, b"x").unwrap();
                served += 1;
            }
            served
        };
        self.fds.iter().map(serve).collect()
    }
}

/// How many clients got their byte; the others were reset or cut off.
pub(crate) fn answered(clients: Vec<TcpStream>) -> usize {
    let got_byte = |mut client: TcpStream| {
        client.set_read_timeout(Some(BOUND)).unwrap();
        client.read_exact(&mut [0]).is_ok()
    };
    clients
        .into_iter()
        .map(got_byte)
        .filter(|answered| *answered)
        .count()
}

/// A selector with every slot inserted and the program attached; `None`, loudly, where that is forbidden.
pub(crate) fn selector(slots: &Slots) -> Option<Selector> {
    let selector = match Selector::load(16) {
        Ok(selector) => selector,
        Err(error) => {
            // Anything but a lack of privilege is a fault of the program.
            assert_eq!(error.source.raw_os_error(), Some(libc::EPERM), "{error}");
            let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!ci, "eBPF is not available: {error}");
            eprintln!("SKIPPED: eBPF is not available: {error}");
            return None;
        }
    };
    for (fd, index) in slots.fds.iter().zip(0..) {
        selector.insert(index, fd).unwrap();
    }
    selector.attach(slots.fds[0].as_fd()).unwrap();
    Some(selector)
}
