//! What a worker says, and how its line is read.

use serde_json::{Map, Value};

use super::query::{AddressType, QueryServer};

/// Bytes of a bad line that are shown.
const EXCERPT: usize = 80;

/// A message of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// The runtime is up; the program has not run yet.
    Online,
    /// It wants a socket; answer with [`super::reply_server`].
    QueryServer(QueryServer),
    /// A server listens. No answer.
    Listening {
        /// Its address or path.
        address: Option<String>,
        /// The port it really has (not the 0 it asked for).
        port: Option<i64>,
        /// Kind of socket.
        address_type: AddressType,
        /// The index of its `queryServer`; Bun sends none.
        index: Option<u64>,
        /// Bun sends none.
        seq: Option<u64>,
    },
    /// A server of the group `key` was closed. No answer.
    Close {
        /// [`QueryServer::key`] as it was in the answer.
        key: String,
        /// Its number.
        seq: Option<u64>,
    },
    /// The worker is about to leave by its own will; answer with [`super::ack`].
    ExitedAfterDisconnect {
        /// Its number.
        seq: u64,
    },
    /// The answer to a message of the primary.
    Ack {
        /// The `seq` of that message.
        seq: u64,
        /// Whether it took the connection of a `newconn`.
        accepted: Option<bool>,
    },
    /// The descriptor arrived.
    HandleAck,
    /// It did not: the answer to [`super::ping`], or a connection to be given to somebody else.
    HandleNack,
    /// A line with a descriptor: answer with [`super::handle_ack`] and close it.
    Handle {
        /// What the program sent with it.
        message: Value,
    },
    /// `process.send('ready')`.
    Ready,
    /// Another message of the runtime itself, of no concern here.
    Internal {
        /// Its `cmd`.
        cmd: String,
    },
    /// Any other `process.send`.
    Message(Value),
}

/// A line that is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Skipped.
    #[error("a message of more than {} bytes", super::MAX_LINE)]
    TooLong,
    /// Not JSON.
    #[error("not JSON ({reason}): {excerpt}")]
    NotJson {
        /// What the parser objects to.
        reason: String,
        /// The start of the line.
        excerpt: String,
    },
    /// A cluster message without what it must have.
    #[error("`{act}` has no valid `{field}`: {excerpt}")]
    Field {
        /// The kind of message.
        act: String,
        /// What is missing or of the wrong type.
        field: &'static str,
        /// The start of the line.
        excerpt: String,
    },
}

impl FromWorker {
    /// Reads one line without its end.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let value: Value = serde_json::from_slice(line).map_err(|error| Malformed::NotJson {
            reason: error.to_string(),
            excerpt: excerpt(line),
        })?;
        let fields = match value {
            Value::Object(fields) if internal_cmd(&fields).is_some() => fields,
            Value::String(text) if text == "ready" => return Ok(FromWorker::Ready),
            other => return Ok(FromWorker::Message(other)),
        };
        Fields(fields)
            .internal()
            .map_err(|BadField { act, field }| Malformed::Field {
                act: act.chars().take(EXCERPT).collect(),
                field,
                excerpt: excerpt(line),
            })
    }
}

/// Is this a message that Node keeps for itself, and no program gets?
#[must_use]
pub fn is_internal(message: &Value) -> bool {
    message.as_object().and_then(internal_cmd).is_some()
}

/// Node's rule: `cmd` starts with the prefix and is longer than it.
fn internal_cmd(fields: &Map<String, Value>) -> Option<&str> {
    let cmd = fields.get("cmd")?.as_str()?;
    (cmd.len() > 5 && cmd.starts_with("NODE_")).then_some(cmd)
}

fn excerpt(line: &[u8]) -> String {
    let shown = &line[..line.len().min(EXCERPT)];
    let mut text = String::from_utf8_lossy(shown).escape_debug().to_string();
    if line.len() > shown.len() {
        text.push('…');
    }
    text
}

struct BadField {
    act: String,
    field: &'static str,
}

/// The fields of a message of the runtime.
struct Fields(Map<String, Value>);

impl Fields {
    fn internal(mut self) -> Result<FromWorker, BadField> {
        match internal_cmd(&self.0).unwrap_or_default() {
            "NODE_CLUSTER" => self.cluster(),
            "NODE_HANDLE_ACK" => Ok(FromWorker::HandleAck),
            "NODE_HANDLE_NACK" => Ok(FromWorker::HandleNack),
            "NODE_HANDLE" => Ok(FromWorker::Handle {
                message: self.take("msg"),
            }),
            cmd => Ok(FromWorker::Internal { cmd: cmd.to_owned() }),
        }
    }

    fn cluster(mut self) -> Result<FromWorker, BadField> {
        match self.0.get("act").and_then(Value::as_str) {
            Some("online") => Ok(FromWorker::Online),
            Some("queryServer") => self.query_server(),
            Some("listening") => Ok(FromWorker::Listening {
                port: self.port()?,
                address_type: self.address_type()?,
                index: self.maybe("index", Value::as_u64)?,
                seq: self.maybe("seq", Value::as_u64)?,
                address: self.text("address")?,
            }),
            Some("close") => Ok(FromWorker::Close {
                seq: self.maybe("seq", Value::as_u64)?,
                key: self.text("key")?.ok_or_else(|| self.bad("key"))?,
            }),
            Some("exitedAfterDisconnect") => Ok(FromWorker::ExitedAfterDisconnect {
                seq: self.must("seq")?,
            }),
            None if self.0.contains_key("ack") => Ok(FromWorker::Ack {
                seq: self.must("ack")?,
                accepted: self.maybe("accepted", Value::as_bool)?,
            }),
            _ => Ok(FromWorker::Internal {
                cmd: "NODE_CLUSTER".to_owned(),
            }),
        }
    }

    fn query_server(&mut self) -> Result<FromWorker, BadField> {
        Ok(FromWorker::QueryServer(QueryServer {
            seq: self.must("seq")?,
            port: self.port()?,
            address_type: self.address_type()?,
            fd: self.maybe("fd", as_i32)?,
            index: self.must("index")?,
            flags: self.maybe("flags", as_u32)?.unwrap_or(0),
            backlog: self.backlog()?,
            address: self.text("address")?,
            data: Some(self.take("data")).filter(|data| !data.is_null()),
        }))
    }

    /// A number, or one written as a string: `dgram` passes on what the program gave it.
    fn port(&self) -> Result<Option<i64>, BadField> {
        self.maybe("port", |value| match value {
            Value::String(digits) => digits.trim().parse().ok(),
            other => other.as_i64(),
        })
    }

    /// Node sends 0 or `false` where the program named none.
    fn backlog(&self) -> Result<Option<i32>, BadField> {
        let backlog = self.maybe("backlog", |value| match value {
            Value::Bool(false) => Some(0),
            other => as_i32(other),
        })?;
        Ok(backlog.filter(|&backlog| backlog != 0))
    }

    fn address_type(&self) -> Result<AddressType, BadField> {
        AddressType::from_json(self.0.get("addressType")).ok_or_else(|| self.bad("addressType"))
    }

    fn must(&self, field: &'static str) -> Result<u64, BadField> {
        self.maybe(field, Value::as_u64)?.ok_or_else(|| self.bad(field))
    }

    /// `None` if the field is absent or null; an error if `read` does not want it.
    fn maybe<T>(
        &self,
        field: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, BadField> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.bad(field)),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<Option<String>, BadField> {
        match self.take(field) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(self.bad(field)),
        }
    }

    fn take(&mut self, field: &str) -> Value {
        self.0.get_mut(field).map_or(Value::Null, Value::take)
    }

    fn bad(&self, field: &'static str) -> BadField {
        let act = self.0.get("act").and_then(Value::as_str).unwrap_or("ack");
        BadField {
            act: act.to_owned(),
            field,
        }
    }
}

fn as_i32(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|number| number.try_into().ok())
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}
