//! Talking to processes: their standard input, and the actions that programs offer over their channel (`axm:reply`, the
//! protocol of @pm2/io).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use rpm_core::WorkerId;
use rpm_sys::scm;
use rpm_wire::api::{ApiError, Offer, SendRequest, TriggerReply, TriggerRequest};
use rpm_wire::channel;
use rpm_wire::shell::word;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::failure::failure;
use crate::os::json_memory::memory_of;
use crate::workers::worker::Outgoing;
use crate::workers::worker::{Process, Workers};

/// Actions that are waited for at a time.
const LIMIT: usize = 64;

/// What a program says of itself at a time, in bytes, and how many actions, figures and settings are kept of it.
const OFFER_BYTES: usize = 16 * 1024;
const OFFER_LIMIT: usize = 128;
/// The memory of each of them.
const OFFER_MEMORY: usize = 8 * 1024;

/// The longest name of an action that is kept for the next daemon, in bytes.
const STORED_NAME: usize = 128;

/// The longest call of an action, in bytes, as the longest message.
const CALL_BYTES: usize = 1 << 20;

/// The actions that programs offer, and those that are waited for.
#[derive(Default)]
pub(crate) struct Actions {
    called: Vec<Called>,
    /// What programs have said of themselves.
    offers: BTreeMap<WorkerId, Offer>,
}

/// An action that was called.
struct Called {
    action: String,
    waiting: BTreeSet<WorkerId>,
    answers: mpsc::UnboundedSender<TriggerReply>,
}

impl Actions {
    /// Calls an action of these workers; the answers come as they are given.
    ///
    /// # Errors
    /// Too many are waited for already, or the call is too long; then nobody has been called.
    pub(crate) fn call(
        &mut self,
        request: &TriggerRequest,
        targets: impl IntoIterator<Item = WorkerId>,
        workers: &mut Workers,
    ) -> Result<mpsc::UnboundedReceiver<TriggerReply>, ApiError> {
        let message = match &request.params {
            Some(params) => json!({"msg": request.action, "opts": params}),
            None => Value::from(request.action.clone()),
        };
        let bytes = channel::message(&message);
        if bytes.len() > CALL_BYTES {
            return Err(failure(
                format!("a call of {} bytes is too long", bytes.len()),
                Some("1 MiB is the most; put the data in a file, and pass its path"),
            ));
        }
        self.called.retain(|called| !called.answers.is_closed());
        if self.called.len() >= LIMIT {
            return Err(failure(
                "too many actions are in progress; this one was not called",
                Some("try again in a moment"),
            ));
        }
        let (answers, receiver) = mpsc::unbounded_channel();
        let mut waiting = BTreeSet::new();
        for worker in targets {
            let outgoing = Outgoing {
                bytes: bytes.clone(),
                fd: None,
            };
            let channel = workers.get_mut(&worker).and_then(|held| held.channel_mut());
            if channel.is_some_and(|channel| !channel.is_behind() && channel.send(outgoing, None)) {
                waiting.insert(worker);
            }
        }
        if !waiting.is_empty() {
            self.called.push(Called {
                action: request.action.clone(),
                waiting,
                answers,
            });
        }
        Ok(receiver)
    }

    /// What the workers of the daemon before have said of their actions: the names.
    pub(crate) fn take_over(&mut self, workers: &Workers) {
        for (worker, held) in workers.iter().filter(|(_, held)| !held.actions.is_empty()) {
            let offer = self.offers.entry(*worker).or_default();
            let named = held.actions.iter().map(|name| json!({"action_name": name}));
            offer.actions.extend(named);
        }
    }

    /// A program has sent a message: it may be the answer to an action, or say what it offers. True if the next daemon must know that.
    pub(crate) fn hear(&mut self, worker: WorkerId, message: &Value, workers: &mut Workers) -> bool {
        match message["type"].as_str() {
            Some("axm:reply") => self.answered(worker, message, workers),
            Some(kind) if kind.starts_with("axm:") => {
                if self.offers.len() >= workers.len() {
                    self.offers.retain(|worker, _| workers.contains_key(worker));
                }
                learn(self.offers.entry(worker).or_default(), kind, &message["data"]);
                return kind == "axm:action" && self.note_names(worker, workers);
            }
            _ => {}
        }
        false
    }

    /// Notes the names of a worker's actions for the next daemon: true if they have changed.
    fn note_names(&self, worker: WorkerId, workers: &mut Workers) -> bool {
        let mut names = self.names_of(worker);
        names.retain(|name| name.len() <= STORED_NAME);
        // A program may announce them again and again, in any order.
        names.sort_unstable();
        let held = workers.get_mut(&worker);
        held.is_some_and(|held| std::mem::replace(&mut held.actions, names) != held.actions)
    }

    /// What the worker's program says of itself, if it does.
    pub(crate) fn offer_of(&self, worker: WorkerId) -> Option<&Offer> {
        self.offers.get(&worker)
    }

    /// The names of the actions that a worker's program offers.
    pub(crate) fn names_of(&self, worker: WorkerId) -> Vec<String> {
        let offer = self.offers.get(&worker).into_iter();
        let names = offer.flat_map(|offer| &offer.actions).filter_map(name_of);
        names.map(str::to_owned).collect()
    }

    fn answered(&mut self, worker: WorkerId, message: &Value, workers: &Workers) {
        let name = message["data"]["action_name"].as_str().unwrap_or_default();
        let Some(held) = workers.get(&worker) else {
            return;
        };
        let called = self
            .called
            .iter_mut()
            .find(|called| called.action == name && called.waiting.contains(&worker));
        if let Some(called) = called {
            called.waiting.remove(&worker);
            // The requester may have disconnected.
            let _ = called.answers.send(TriggerReply {
                id: held.instance.0,
                name: held.spec.name.clone(),
                namespace: held.spec.namespace.clone(),
                answer: message["data"]["return"].clone(),
            });
        }
        self.called.retain(|called| !called.waiting.is_empty());
    }
}

/// Writes a line to the standard input of a process; `target` is what the requester calls it.
///
/// # Errors
/// It does not run, has no standard input, or does not read it.
pub(crate) fn send_line(process: Option<&Process>, request: &SendRequest) -> Result<(), ApiError> {
    let process = process.ok_or_else(|| {
        failure(
            format!("{:?} does not run", request.target),
            Some(&format!("`rpm restart {}` starts it", word(&request.target))),
        )
    })?;
    let Some(stdin) = &process.stdin else {
        return Err(failure(
            format!(
                "{:?} is a cluster: its workers have no standard input",
                request.target
            ),
            Some(&format!(
                "only a process in fork mode has one; use a port, or a signal: `rpm sendSignal SIGUSR2 {}`",
                word(&request.target)
            )),
        ));
    };
    write(stdin, request.line.as_bytes()).map_err(|error| {
        failure(
            format!("{:?} does not read its standard input: {error}", request.target),
            Some("it must read what was sent before"),
        )
    })
}

fn name_of(action: &Value) -> Option<&str> {
    action["action_name"].as_str()
}

/// Keeps what a program says of itself, as PM2 does; what is too large is not kept.
fn learn(offer: &mut Offer, kind: &str, data: &Value) {
    if data.to_string().len() > OFFER_BYTES {
        return;
    }
    let put = |fields: &mut Map<String, Value>| {
        for (name, value) in data.as_object().into_iter().flatten() {
            let has_room = fields.len() < OFFER_LIMIT || fields.contains_key(name);
            if has_room && memory_of(value) <= OFFER_MEMORY {
                fields.insert(name.clone(), value.clone());
            }
        }
    };
    match kind {
        "axm:action" if name_of(data).is_some() => {
            offer.actions.retain(|known| name_of(known) != name_of(data));
            if offer.actions.len() < OFFER_LIMIT && memory_of(data) <= OFFER_MEMORY {
                offer.actions.push(data.clone());
            }
        }
        "axm:monitor" => put(&mut offer.monitor),
        "axm:option:configuration" => put(&mut offer.options),
        _ => {}
    }
}

/// All of it, or nothing that can be helped.
fn write(to: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let written = scm::send(to, bytes, None)?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
