//! Interception, with real programs.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::support::{BOUND, Slots, Victim, command, output, shell, so, wait_until};
use rpm_sys::intercept::{Call, Notifications, Received, What};
use rpm_sys::spawn::{Spawn, spawn};
use rpm_sys::{Signal, socket};

/// A Python program, intercepted.
fn python(program: &str) -> Spawn {
    Spawn {
        intercept: true,
        user: None,
        no_new_privileges: false,
        ..command("/usr/bin/python3", &["-c", program])
    }
}

/// One that listens on this port and answers each connection with this byte.
fn server(port: u16, byte: char) -> String {
    format!(
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', {port}))\ns.listen(7)\nwhile True:\n c = s.accept()[0]\n \
         c.send(b'{byte}')\n c.close()"
    )
}

fn notifications(victim: &Victim) -> &Notifications {
    victim
        .0
        .notifications
        .as_ref()
        .expect("its calls are intercepted")
}

/// The next call.
fn next(from: &Notifications) -> Call {
    let mut call = None;
    wait_until(|| match from.receive().unwrap() {
        Received::Call(received) => {
            call = Some(received);
            Ok(())
        }
        other => Err(other),
    });
    call.unwrap()
}

/// Has the next call go on, after something was done to its socket.
fn pass(from: &Notifications, with: impl FnOnce(&Call, &OwnedFd)) {
    let call = next(from);
    let socket = from.socket(&call).unwrap();
    with(&call, &socket);
    from.proceed(&call).unwrap();
}

/// The byte that a server answers with.
fn asked(port: u16) -> char {
    let mut byte = [0];
    let mut connected = None;
    // The answer is not yet the call.
    wait_until(|| TcpStream::connect(("127.0.0.1", port)).map(|stream| connected = Some(stream)));
    let mut stream = connected.unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.read_exact(&mut byte).unwrap();
    char::from(byte[0])
}

fn free_port() -> (OwnedFd, u16) {
    let reserved = socket::reserve_port("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let port = socket::local_addr(&reserved).unwrap().port();
    (reserved, port)
}

#[test]
fn who_takes_over_answers_what_another_has_received() {
    // Nobody shares the port here, and it cannot be reserved: the program gets one from the kernel.
    let mut victim = Victim::of(python(&server(0, 'x'))).unwrap();
    let died = victim.0.notifications.take().expect("its calls are intercepted");
    let kept = died.as_fd().try_clone_to_owned().unwrap();
    let received = next(&died);
    drop(died);
    let from = Notifications::taken_back(kept).expect("it was kept");
    assert!(
        matches!(from.receive().unwrap(), Received::Nothing),
        "it was received"
    );
    from.proceed_with(received.id()).unwrap();
    assert!(from.proceed_with(received.id()).is_err(), "it is answered");
    let mut port = 0;
    pass(&from, |call, bound| {
        assert!(matches!(call.what(), What::Listen { .. }));
        port = socket::local_addr(bound).unwrap().port();
    });
    assert_eq!(asked(port), 'x');
}

#[test]
fn programs_that_know_nothing_of_it_share_a_port() {
    let (_reserved, port) = free_port();
    let servers: Vec<Victim> = ['a', 'b']
        .iter()
        .map(|byte| Victim::of(python(&server(port, *byte))).unwrap())
        .collect();
    for server in &servers {
        let from = notifications(server);
        pass(from, |call, bound| {
            assert!(matches!(call.what(), What::Bind { .. }));
            assert_eq!(from.address(call).unwrap(), Some(([127, 0, 0, 1], port).into()));
            assert!(!socket::is_shared(bound) && socket::tcp(bound).is_some());
            socket::share(bound).unwrap();
        });
        pass(from, |call, bound| {
            assert_eq!(call.what(), What::Listen { backlog: 7 });
            assert_eq!(socket::local_addr(bound).unwrap().port(), port);
        });
    }
    let mut seen = std::collections::BTreeSet::new();
    wait_until(|| {
        seen.insert(asked(port));
        so(seen.len() == 2)
    });
}

#[test]
fn a_socket_is_replaced_by_one_with_a_queue() {
    let slots = Slots::new(1);
    let port = slots.address.port();
    let _queued = slots.connect(3);
    let victim = Victim::of(python(&server(port, 'x'))).unwrap();
    let from = notifications(&victim);
    pass(from, |_, bound| socket::share(bound).unwrap());
    pass(from, |call, bound| {
        socket::match_blocking(&slots.fds[0], bound).unwrap();
        from.replace(call, slots.fds[0].as_fd()).unwrap();
    });
    assert_eq!(asked(port), 'x');
    assert_eq!(
        slots.queues(0),
        [0],
        "those that were there before it are served first"
    );
}

#[test]
fn descendants_are_intercepted_too() {
    let (_reserved, port) = free_port();
    let program = server(port, 'd');
    let mut what = shell("python3 -c \"$PROGRAM\"; exit 3");
    what.env.push(("PROGRAM".into(), program.into()));
    what.intercept = true;
    let victim = Victim::of(what).unwrap();
    let from = notifications(&victim);
    let call = next(from);
    assert_ne!(call.thread(), victim.0.pid, "it is the shell's child");
    socket::share(from.socket(&call).unwrap()).unwrap();
    from.proceed(&call).unwrap();
    pass(from, |_, _| {});
    assert_eq!(asked(port), 'd');
}

#[test]
fn a_caller_that_dies_harms_nobody_and_the_last_one_ends_it() {
    let (_reserved, port) = free_port();
    let victim = Victim::of(python(&server(port, 'x'))).unwrap();
    let from = notifications(&victim);
    let call = next(from);
    victim.pidfd().send_signal(Signal::KILL).unwrap();
    wait_until(|| so(!from.is_waiting(&call)));
    assert!(from.socket(&call).is_err() && from.address(&call).is_err());
    assert!(from.proceed(&call).is_err());
    wait_until(|| {
        so(matches!(
            from.receive().unwrap(),
            Received::End | Received::Nothing
        ))
    });
    wait_until(|| {
        victim
            .pidfd()
            .try_wait()
            .map(|status| so(status.is_some()))
            .unwrap()
    });
    wait_until(|| so(matches!(from.receive().unwrap(), Received::End)));
}

#[test]
fn what_was_kept_serves_the_next_daemon_and_the_process_has_no_part_in_it() {
    let (_reserved, port) = free_port();
    let mut victim = Victim::of(python(&server(port, 'k'))).unwrap();
    let first = victim.0.notifications.take().unwrap();
    let kept = first.as_fd().try_clone_to_owned().unwrap();
    // As if this process had died: the program waits.
    drop(first);
    let again = Notifications::taken_back(kept).expect("it is one");
    pass(&again, |_, bound| socket::share(bound).unwrap());
    pass(&again, |_, _| {});
    assert_eq!(asked(port), 'k');
    let other = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(Notifications::taken_back(other).is_none());
    let fds = std::fs::read_dir(format!("/proc/{}/fd", victim.pidfd().pid())).unwrap();
    for fd in fds {
        let held = std::fs::read_link(fd.unwrap().path()).unwrap();
        assert!(!held.to_string_lossy().contains("seccomp"), "{held:?}");
    }
}

#[test]
fn other_sockets_and_other_programs_are_as_before() {
    let (mut reader, stdout, stderr) = output();
    let program = "import socket, os\nu = socket.socket(socket.AF_UNIX)\nu.bind('\\0rpm-%d' % os.getpid())\nprint('done')";
    let child = spawn(Spawn {
        stdout,
        stderr,
        ..python(program)
    })
    .unwrap();
    let victim = Victim(child);
    let from = notifications(&victim);
    pass(from, |call, bound| {
        assert_eq!((from.address(call).unwrap(), socket::tcp(bound)), (None, None));
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
}
