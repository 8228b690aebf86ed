//! What it costs the daemon to answer a program that wants to bind a socket: taking it, looking at it, and having it share
//! its address.

use std::ffi::OsString;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rpm_sys::intercept::{Call, Notifications, Received};
use rpm_sys::spawn::{Child, Spawn, spawn};
use rpm_sys::{Signal, socket};

/// Binds one socket after the other.
const PROGRAM: &str =
    "import socket\nwhile True:\n s = socket.socket()\n s.bind(('127.0.0.1', 0))\n s.close()";

fn program() -> Child {
    let null = || {
        OwnedFd::from(
            std::fs::File::options()
                .write(true)
                .open("/dev/null")
                .expect("it is there"),
        )
    };
    spawn(Spawn {
        program: "/usr/bin/python3".into(),
        argv: ["python3", "-c", PROGRAM].iter().map(OsString::from).collect(),
        env: Vec::new(),
        cwd: "/".into(),
        stdout: null(),
        stderr: null(),
        stdin: None,
        fds: Vec::new(),
        listen_fds: 0,
        nofile: None,
        intercept: true,
        user: None,
        no_new_privileges: false,
    })
    .expect("calls can be intercepted here")
}

fn next(from: &Notifications) -> Call {
    loop {
        match from.receive().expect("it can be read") {
            Received::Call(call) => return call,
            Received::Nothing => std::thread::yield_now(),
            Received::End => panic!("the program has ended"),
        }
    }
}

fn answer(from: &Notifications, call: &Call) {
    let address = from.address(call).expect("it waits");
    let socket = from.socket(call).expect("it has one");
    black_box((address, socket::tcp(&socket), socket::cookie(&socket)).1);
    socket::share(&socket).expect("it is not bound yet");
    from.proceed(call).expect("it waits");
}

fn answers(c: &mut Criterion) {
    let child = program();
    let from = child.notifications.as_ref().expect("its calls are intercepted");
    c.bench_function("interception/answer_bind", |b| {
        b.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            for _ in 0..count {
                let call = next(from);
                let began = Instant::now();
                answer(from, &call);
                spent += began.elapsed();
            }
            spent
        });
    });
    let _ = child.pidfd.send_signal(Signal::KILL);
    while child.pidfd.try_wait().is_ok_and(|status| status.is_none()) {
        std::thread::yield_now();
    }
}

criterion_group!(benches, answers);
criterion_main!(benches);
