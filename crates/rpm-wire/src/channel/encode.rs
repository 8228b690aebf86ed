//! What the primary says: each function gives one whole line.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{BUN_INTERNAL, Dialect};

/// What kind of descriptor goes with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// A stream socket, listening or connected: `net.Native`.
    Stream,
    /// A datagram socket: `dgram.Native`.
    Datagram,
}

impl Handle {
    fn type_name(self) -> &'static str {
        match self {
            Handle::Stream => "net.Native",
            Handle::Datagram => "dgram.Native",
        }
    }
}

/// The answer to a `queryServer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerReply {
    /// The line goes out with this kind of descriptor, which the worker uses from then on.
    Lend(Handle),
    /// The worker listens on nothing, and gets the connections to this address one by one ([`newconn`]).
    Hand(SocketAddr),
    /// The worker's `listen` fails with this errno (`EADDRINUSE` = 98; the sign does not matter).
    Refuse(i32),
}

/// Answers a `queryServer`. `data` is that of the first worker that asked for the group; it may not
/// be left out (see [`super::QueryServer::data`]).
#[must_use]
pub fn reply_server(seq: u64, key: &str, reply: ServerReply, data: Option<&Value>) -> Vec<u8> {
    let answer =
        |errno: i32| json!({"cmd": "NODE_CLUSTER", "ack": seq, "key": key, "errno": errno, "data": data});
    match reply {
        ServerReply::Lend(handle) => with_handle(handle, &answer(0)),
        ServerReply::Hand(address) => {
            let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
            let mut answer = answer(0);
            answer["sockname"] =
                json!({"address": address.ip().to_string(), "family": family, "port": address.port()});
            line(&answer)
        }
        ServerReply::Refuse(errno) => line(&answer(-errno.saturating_abs())),
    }
}

/// Gives the worker a connection of the group `key`; the descriptor goes with the line. It is answered
/// by [`super::FromWorker::Ack`] with this `seq`, or by [`super::FromWorker::HandleNack`].
#[must_use]
pub fn newconn(seq: u64, key: &str) -> Vec<u8> {
    let message = json!({"cmd": "NODE_CLUSTER", "act": "newconn", "seq": seq, "key": key});
    with_handle(Handle::Stream, &message)
}

/// Confirms a descriptor that the worker sent. Until then it holds back every later one, and all its
/// messages with them.
#[must_use]
pub fn handle_ack() -> Vec<u8> {
    line(&json!({"cmd": "NODE_HANDLE_ACK"}))
}

/// Answers `exitedAfterDisconnect`, for which `worker.disconnect()` and `worker.kill()` wait. Node's
/// primary answers nothing else without a handle: `online`, `listening` and `close` stay unanswered.
#[must_use]
pub fn ack(seq: u64, dialect: Dialect) -> Vec<u8> {
    let mut bytes = match dialect {
        Dialect::Node => Vec::new(),
        Dialect::Bun => vec![BUN_INTERNAL],
    };
    bytes.extend(line(&json!({"cmd": "NODE_CLUSTER", "ack": seq})));
    bytes
}

/// Asks for a sign of life from the worker's event loop. The line announces a descriptor and goes out
/// without one; Node 18 to 26 and Bun 1.4 answer [`super::FromWorker::HandleNack`] from their main
/// loop and show the program nothing. Bun answers only once the program has opened the channel
/// (it listens, or uses `process.send` or `process.on('message')`).
#[must_use]
pub fn ping() -> Vec<u8> {
    with_handle(Handle::Stream, &json!({}))
}

/// A message for the program's `process.on('message')`.
#[must_use]
pub fn message(value: &Value) -> Vec<u8> {
    line(value)
}

fn with_handle(handle: Handle, message: &Value) -> Vec<u8> {
    line(&json!({"cmd": "NODE_HANDLE", "type": handle.type_name(), "msg": message}))
}

fn line(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
