//! What must be written before it is done.

use std::collections::VecDeque;

use rpm_core::protocol::{Notice, Output};

/// Does this change what the next daemon must know, before it is done? `each`: of each worker that is started, too.
fn is_lasting(output: &Output, each: bool) -> bool {
    match output {
        Output::CheckHealth { .. }
        | Output::Terminate { .. }
        | Output::Drain { .. }
        | Output::RefuseNew { .. }
        | Output::Kill { .. }
        | Output::CloseSlot { .. }
        | Output::Done { .. }
        | Output::AppGone { .. } => true,
        _ if is_ready(output) => true,
        Output::Spawn { .. } => each,
        Output::Steer { .. } | Output::Rescue { .. } | Output::Probe { .. } | Output::Notice(_) => false,
    }
}

/// How many of these, from the first on, may be done before the next daemon knows of any. Clients are steered to a worker that has become ready
/// when that is written: the next daemon ends one that it does not know, or believes to be starting.
pub(crate) fn passing(undone: &VecDeque<Output>, each: bool) -> usize {
    let become_ready = undone.iter().any(is_ready);
    let waits = |output: &Output| is_lasting(output, each) || (become_ready && is_steer(output));
    undone.iter().take_while(|output| !waits(output)).count()
}

/// Is a worker ready?
fn is_ready(output: &Output) -> bool {
    matches!(
        output,
        Output::Notice(Notice::Online { .. } | Notice::CandidateReady { .. })
    )
}

/// Do clients go elsewhere from here on?
fn is_steer(output: &Output) -> bool {
    matches!(output, Output::Steer { .. })
}

/// Is a process asked to end?
pub(crate) fn is_question(output: &Output) -> bool {
    matches!(output, Output::Terminate { .. })
}

#[cfg(test)]
mod tests {
    use rpm_core::WorkerId;

    use super::*;

    #[test]
    fn however_many_there_are_a_worker_is_written_before_it_has_clients() {
        let worker = WorkerId(7);
        let steer = || Output::Steer {
            group: rpm_core::GroupId(1),
            slots: Vec::new(),
        };
        let online = Output::Notice(Notice::Online {
            worker,
            silent: false,
        });
        let proved = Output::Notice(Notice::CandidateReady { worker });
        for each in [false, true] {
            assert_eq!(passing(&[steer(), steer()].into(), each), 2);
            for ready in [&online, &proved] {
                // The core says where clients go before it says why.
                assert_eq!(passing(&[steer(), ready.clone()].into(), each), 0);
                assert_eq!(passing(&[ready.clone(), steer()].into(), each), 0);
            }
        }
    }
}
