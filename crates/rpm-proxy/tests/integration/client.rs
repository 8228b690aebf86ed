//! A client that sends any bytes, and hears which status each answer has.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};

use crate::site::{BOUND, Site};

/// The status of each answer to these bytes.
pub(crate) fn ask(site: &Site, bytes: &[u8]) -> Vec<u16> {
    hear(&sent(site, bytes), bytes)
}

/// A client that has sent these bytes.
pub(crate) fn sent(site: &Site, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream.write_all(bytes).expect("it is sent");
    stream
}

/// The status of each answer to what it has sent.
pub(crate) fn hear(mut stream: &TcpStream, bytes: &[u8]) -> Vec<u16> {
    let mut answers = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answers).into_owned();
        let statuses = statuses(&text);
        // The proxy closes the connection after a rejection; after a response the test closes it.
        if statuses.first() == Some(&200) && text.ends_with("ok") {
            let _ = stream.shutdown(Shutdown::Both);
            return statuses;
        }
        match stream.read(&mut part) {
            Ok(count @ 1..) => answers.extend_from_slice(&part[..count]),
            Ok(0) => return statuses,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return statuses,
            Err(error) => panic!("{error}: {text:?} to {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

fn statuses(text: &str) -> Vec<u16> {
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|line| line.get(..3)?.parse().ok()).collect()
}
