//! The sample worker: a small HTTP server that takes its socket through `LISTEN_FDS`, as any program may.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// A client that says nothing is left alone after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any browser's request line and headers.
const MOST_LINES: usize = 200;

/// Serves until it is ended.
pub(crate) fn run() -> ExitCode {
    let threads: Vec<_> = rpm_sys::activation::listeners()
        .into_iter()
        .map(|listener| std::thread::spawn(move || serve(&listener)))
        .collect();
    if threads.is_empty() {
        eprintln!("the sample worker is started by `rpm demo`, which passes it a socket");
        return ExitCode::FAILURE;
    }
    for thread in threads {
        let _ = thread.join();
    }
    ExitCode::SUCCESS
}

fn serve(listener: &TcpListener) {
    let instance = std::env::var("NODE_APP_INSTANCE").unwrap_or_default();
    let name = format!("worker {instance} (pid {})", std::process::id());
    for stream in listener.incoming() {
        match stream {
            // A client that goes away in the middle is its own affair.
            Ok(stream) => drop(answer(&stream, &instance, &name)),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn answer(mut stream: &TcpStream, instance: &str, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    for _ in 0..MOST_LINES {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
    }
    let body =
        format!("<!doctype html><title>rpm</title><h1>Hello from {name}</h1><p>Reload to meet another.\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nx-worker: {instance}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
