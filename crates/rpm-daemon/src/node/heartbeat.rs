//! Whether the event loop of a worker turns.

use rpm_core::WorkerId;
use rpm_core::protocol::Input;
use rpm_wire::channel;

use crate::workers::worker::{Awaiting, Outgoing, Workers};

/// Asks the worker's event loop for a sign of life: over the channel where there is one, else by whether the process sleeps (waits for something)
/// rather than runs or is stopped. What the core has to know at once.
pub(crate) fn probe(workers: &mut Workers, worker: WorkerId) -> Option<Input> {
    let held = workers.get_mut(&worker)?;
    let delivery = held.delivery;
    if let Some(channel) = held.channel_mut() {
        if !channel.awaits_pong() {
            channel.send(
                Outgoing {
                    bytes: channel::ping(),
                    fd: None,
                },
                Some(Awaiting::Ping),
            );
        }
        return None;
    }
    let pid = held.process().map(|process| process.pid);
    let sleeps = pid.is_some_and(|pid| rpm_sys::usage::state(pid).is_ok_and(|state| state == 'S'));
    (delivery.is_alive_asleep() && sleeps).then_some(Input::Responded { worker })
}
