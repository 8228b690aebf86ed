//! What a comparison owes to those that it compares: the same part of the CPU, and the same neighbours.

use std::path::Path;

use tokio::process::Command;

/// In which order all have their turn in this round, by number. What one leaves behind, a thousand connections that end, is the next
/// one's burden: over as many rounds as there are (an even number) each follows each other one as often (Williams, 1949).
pub(crate) fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let zigzag = (0..count).map(move |at| {
        if at % 2 == 1 {
            at.div_ceil(2)
        } else {
            (count - at / 2) % count
        }
    });
    zigzag.map(move |place| (place + round) % count)
}

/// A program that is started as rpm starts its workers, and as a proxy in the background is: where the kernel shares the CPU by session
/// (`kernel.sched_autogroup_enabled`), those in the session of the clients would get another part of it.
pub(crate) fn in_own_session(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_follows_each_other_one_as_often() {
        for count in [4, 8] {
            let mut followers = BTreeMap::new();
            for round in 0..count {
                let order: Vec<usize> = order(count, round).collect();
                for pair in order.windows(2) {
                    *followers.entry((pair[0], pair[1])).or_insert(0) += 1;
                }
            }
            assert_eq!(followers.len(), count * (count - 1));
            assert!(followers.values().all(|times| *times == 1), "{followers:?}");
        }
    }
}
