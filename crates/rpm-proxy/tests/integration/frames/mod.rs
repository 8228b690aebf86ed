//! A client of HTTP/2 that speaks in frames.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::site::{BOUND, Site};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// HPACK for `:status: 200` and `:status: 400`.
pub const OK: u8 = 0x88;
pub const BAD_REQUEST: u8 = 0x8c;

/// The default window of a connection and of a stream.
pub const WINDOW: usize = 65_535;
/// The default limit for the payload of a frame.
const FRAME: usize = 16_384;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &list.iter().flat_map(entry).collect::<Vec<_>>())
}

/// HPACK: fields that are not indexed, and not compressed.
pub fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
    }
    block
}

pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "x"),
];
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "x"),
];

/// The same for another path.
pub fn at(
    mut request: [(&'static str, &'static str); 4],
    path: &'static str,
) -> [(&'static str, &'static str); 4] {
    request[2].1 = path;
    request
}

/// The head of a GET with these fields besides.
pub fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    fields(&[&GET, more].concat())
}

pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&GET))
}

/// The head of a POST whose body follows.
pub fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(&POST))
}

/// What has come.
#[derive(Debug, Default)]
pub struct Seen {
    pub ended: bool,
    pub goaway: Option<u32>,
    pub resets: BTreeMap<u32, u32>,
    pub statuses: BTreeMap<u32, u8>,
    pub complete: BTreeSet<u32>,
    pub data: Vec<(u32, usize)>,
    pub settings_acks: usize,
    pub pongs: Vec<Vec<u8>>,
    /// The window of a stream that is begun.
    pub initial_window: Option<usize>,
    /// By how much the windows of streams, and of the connection (0), were widened.
    pub widened: BTreeMap<u32, usize>,
}

impl Seen {
    pub fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let number = |at: usize| {
            let four = payload[at..].first_chunk().expect("four bytes");
            u32::from_be_bytes(*four)
        };
        match kind {
            HEADERS => {
                // A new size of the table comes before the status.
                let first = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                self.statuses.entry(stream).or_insert(*first.expect("a status"));
            }
            DATA => self.data.push((stream, payload.len())),
            RST_STREAM => drop(self.resets.insert(stream, number(0))),
            SETTINGS if flags & ACK != 0 => self.settings_acks += 1,
            SETTINGS => {
                let window = payload.chunks(6).find(|entry| entry[..2] == [0, 4]);
                let window = window.and_then(|entry| entry[2..].first_chunk().copied());
                self.initial_window = Some(window.map_or(WINDOW, |four| u32::from_be_bytes(four) as usize));
            }
            WINDOW_UPDATE => *self.widened.entry(stream).or_default() += number(0) as usize,
            PING if flags & ACK != 0 => self.pongs.push(payload.to_vec()),
            // One that ends a connection for an error comes after others that only announce it.
            GOAWAY => self.goaway = Some(number(4)),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            self.complete.insert(stream);
        }
    }
}

/// A client that speaks in frames.
pub struct Client {
    pub stream: TcpStream,
    pub come: Vec<u8>,
    pub seen: Seen,
}

impl Client {
    pub fn connect(site: &Site, own: &[(u16, u32)]) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
        stream.set_read_timeout(Some(BOUND)).expect("a deadline");
        let mut client = Client {
            stream,
            come: Vec::new(),
            seen: Seen::default(),
        };
        client.send(PREFACE);
        client.send(&settings(own));
        client
    }

    /// What cannot be sent any more is not: the answer has come before.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn read_until(&mut self, done: impl Fn(&Seen) -> bool) {
        let mut part = [0; 16 * 1024];
        while !done(&self.seen) && !self.seen.ended {
            if self.take_one() {
                continue;
            }
            match self.stream.read(&mut part) {
                Ok(0) => self.seen.ended = true,
                Ok(count) => self.come.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.seen.ended = true,
                Err(error) => panic!("{error}: {:?}", self.seen),
            }
        }
    }

    /// Sends as much of the body of this stream as is taken, until the answer is complete.
    pub fn send_what_is_taken(&mut self, stream: u32) {
        self.read_until(|seen| seen.initial_window.is_some());
        let initial = self.seen.initial_window.expect("it was just seen");
        let mut sent = 0;
        while !self.seen.complete.contains(&stream) && !self.seen.ended {
            let room = |seen: &Seen| {
                let widened = |stream| seen.widened.get(&stream).copied().unwrap_or(0);
                (initial + widened(stream)).min(WINDOW + widened(0)) - sent
            };
            match room(&self.seen).min(FRAME) {
                0 => self.read_until(|seen| room(seen) > 0 || seen.complete.contains(&stream)),
                count => {
                    self.send(&frame(DATA, 0, stream, &vec![b'x'; count]));
                    sent += count;
                }
            }
        }
    }

    /// For so long no request is answered, and none given up.
    pub fn hears_nothing(&mut self, within: Duration) {
        self.read_for(within);
        let seen = &self.seen;
        let nothing = seen.statuses.is_empty() && seen.resets.is_empty() && seen.goaway.is_none();
        assert!(nothing, "{seen:?}");
    }

    /// Reads what comes in this time. The connection does not end.
    pub fn read_for(&mut self, within: Duration) {
        let until = Instant::now() + within;
        while let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.stream.set_read_timeout(Some(left)).expect("a deadline");
            let mut part = [0; 1024];
            match self.stream.read(&mut part) {
                Ok(count @ 1..) => self.come.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                ended => panic!("{ended:?}: {:?}", self.seen),
            }
            while self.take_one() {}
        }
        self.stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    }

    /// Takes the next frame, if it has come whole.
    fn take_one(&mut self) -> bool {
        let Some(length) = self.whole() else {
            return false;
        };
        let frame: Vec<u8> = self.come.drain(..9 + length).collect();
        let stream = u32::from_be_bytes(*frame[5..].first_chunk().expect("four bytes"));
        self.seen.take(frame[3], frame[4], stream, &frame[9..]);
        match frame[3] {
            PING if frame[4] & ACK == 0 => self.send(&self::frame(PING, ACK, 0, &frame[9..])),
            // They hold from then on.
            SETTINGS if frame[4] & ACK == 0 => self.send(&self::frame(SETTINGS, ACK, 0, &[])),
            _ => {}
        }
        true
    }

    /// The length of the payload of the next frame, if it has come whole.
    pub fn whole(&self) -> Option<usize> {
        let [high, middle, low] = *self.come.first_chunk()?;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        (self.come.len() >= 9 + length).then_some(length)
    }
}
