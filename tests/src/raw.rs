//! A connection on which a test speaks HTTP/1 itself.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rpm_testkit::Port;

const BOUND: Duration = Duration::from_secs(20);

/// A client's connection.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Connection {
    /// Connects to this port of 127.0.0.1.
    ///
    /// # Panics
    /// No process listens.
    pub fn open(port: &Port) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", port.number())).expect("somebody listens");
        stream.set_read_timeout(Some(BOUND)).expect("a deadline");
        Connection(BufReader::new(stream))
    }

    /// Sends text.
    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// It cannot be sent.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it is sent");
    }

    /// Reads a line, with its end.
    ///
    /// # Panics
    /// None comes within 20 s.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line
    }

    /// Reads a response with a `Content-Length`.
    ///
    /// # Panics
    /// None comes within 20 s.
    pub fn answer(&mut self) -> Answer {
        let mut head = String::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the connection ended after {head:?}");
            if line == "\r\n" {
                break;
            }
            head.push_str(&line.to_lowercase());
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
        self.0.read_exact(&mut body).expect("a body");
        Answer {
            status: head[9..12].parse().expect("a status"),
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// Sends a GET and reads the response.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n"));
        self.answer()
    }

    /// True if nothing arrives within this time.
    ///
    /// # Panics
    /// The time-out cannot be set.
    pub fn is_silent(&mut self, within: Duration) -> bool {
        self.0
            .get_mut()
            .set_read_timeout(Some(within))
            .expect("a deadline");
        let silent = self.0.fill_buf().is_err();
        self.0
            .get_mut()
            .set_read_timeout(Some(BOUND))
            .expect("a deadline");
        silent
    }

    /// True if the connection has ended, and nothing more arrives. False if it is still open after 20 s.
    pub fn has_ended(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}
