//! What is asked of the processes that a target means, and needs no command of the core.

use rpm_core::protocol::Outcome;
use rpm_core::{InstanceId, WorkerId};
use rpm_sys::pidfd::signal_by_name;
use rpm_sys::tree::Tree;
use rpm_wire::api::{ApiError, SignalRequest};
use tokio::sync::oneshot;

use crate::apps::catalog::Catalog;
use crate::failure::failure;
use crate::orders::Accepted;
use crate::workers::worker::{Process, Workers};

/// The workers that a target means and that run.
///
/// # Errors
/// It means nothing.
pub(crate) fn workers_of(catalog: Catalog<'_>, target: &str) -> Result<Vec<WorkerId>, ApiError> {
    let ids = catalog.resolve(&[target.to_owned()])?;
    let worker = |id: InstanceId| catalog.core().instance(id)?.worker();
    Ok(ids.into_iter().filter_map(worker).collect())
}

/// The process of the first worker that a target means; `None`: it does not run.
///
/// # Errors
/// It means nothing.
pub(crate) fn process_of<'a>(
    catalog: Catalog<'_>,
    workers: &'a Workers,
    target: &str,
) -> Result<Option<&'a Process>, ApiError> {
    let first = workers_of(catalog, target)?.into_iter().next();
    Ok(first.and_then(|worker| workers.get(&worker)?.process()))
}

/// Sends a signal to the programs themselves: which instances are meant, and what is to be said of them.
///
/// # Errors
/// There is no such signal, or no such target.
pub(crate) fn signal(
    catalog: Catalog<'_>,
    workers: &Workers,
    request: &SignalRequest,
) -> Result<(Vec<InstanceId>, Vec<String>), ApiError> {
    let name = &request.signal;
    let signal = signal_by_name(name).ok_or_else(|| {
        failure(
            format!("{name:?} is not a signal"),
            Some("give its name, as SIGUSR2 or usr2, or its number"),
        )
    })?;
    let instances = catalog.resolve(&request.targets)?;
    let mut notes = Vec::new();
    for id in &instances {
        let worker = catalog.core().instance(*id).and_then(|view| view.worker());
        let held = worker.and_then(|worker| workers.get(&worker));
        let Some((held, process)) = held.and_then(|held| Some((held, held.process()?))) else {
            notes.push(format!("{id} does not run"));
            continue;
        };
        let program = held.program_pid().unwrap_or(process.pid);
        let sent = match program == process.pid {
            true => process.pidfd.send_signal(signal),
            false => Tree::snapshot(program).and_then(|tree| tree.signal(signal)),
        };
        if let Err(error) = sent {
            notes.push(format!("{id}: {error}"));
        }
    }
    Ok((instances, notes))
}

/// An outcome that is known already.
pub(crate) fn settled(instances: Vec<InstanceId>, notes: Vec<String>) -> Accepted {
    let (sender, outcome) = oneshot::channel();
    let done = Outcome::Done {
        instances: instances.clone(),
        silent: Vec::new(),
    };
    // The other end is in the same hand.
    let _ = sender.send(done);
    Accepted {
        outcome,
        instances,
        notes,
        whole: None,
    }
}
