//! A syslog server that is there or away.

use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rpm_testkit::{wait_for, wait_until};

use super::{BOUND, Receivers};

/// What a syslog server has not closed within 2 s of the last byte counts as taken. Half of it is for the test's own threads.
const HUNG_UP_WITHIN: Duration = Duration::from_secs(1);

/// A syslog server. One that is away hangs up on the client that is there, and then nobody listens until it is back.
pub(super) fn serve(receivers: &Arc<Receivers>, port: u16) {
    let listen = move || {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port that is reserved");
        listener.set_nonblocking(true).expect("a socket");
        listener
    };
    let (mut listener, mut alone) = (listen(), Instant::now());
    let receivers = Arc::clone(receivers);
    thread::spawn(move || {
        loop {
            let client = wait_for("a client", 4 * BOUND, || accept(&listener, &mut alone));
            // One that has waited for longer is served: if this thread was late, its lines count as taken.
            if receivers.away.load(Ordering::SeqCst) && alone.elapsed() < HUNG_UP_WITHIN {
                drop((client, listener));
                let away = || receivers.away.load(Ordering::SeqCst);
                wait_until("the server is back", 3 * BOUND, away, |away| !away);
                (listener, alone) = (listen(), Instant::now());
                continue;
            }
            let receivers = Arc::clone(&receivers);
            // A client that is killed is none of ours.
            thread::spawn(move || receive(&receivers, client));
        }
    });
}

/// The next client, if there is one. `alone`: when nobody waited; whoever is there now has come since.
fn accept(listener: &TcpListener, alone: &mut Instant) -> Option<TcpStream> {
    let now = Instant::now();
    match listener.accept() {
        Ok((client, _)) => Some(client),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            *alone = now;
            None
        }
    }
}

/// Octet counting.
fn receive(receivers: &Receivers, mut client: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes)?;
    let mut rest = std::str::from_utf8(&bytes).expect("text");
    while let Some((length, more)) = rest.split_once(' ') {
        let (message, behind) = more.split_at(length.parse().expect("a length"));
        assert!(
            message.starts_with("<14>1 ") || message.starts_with("<11>1 "),
            "{message}"
        );
        let text = message
            .split_once("[rpm@32473 env=\"test\"] ")
            .map_or(message, |(_, text)| text);
        receivers.add("syslog", text);
        rest = behind;
    }
    Ok(())
}
