//! Workers that crash in a loop: what would be reported each time is held back, so that it does not push everything else out of the history.

use std::collections::BTreeMap;
use std::time::Instant;

use rpm_core::{AppId, InstanceId};
use rpm_wire::events::What;

use super::pace::Pace;
use super::writer::Draft;

/// Crashes of an instance that are reported as they happen.
const BURST: u32 = 5;
/// Above this many instances those that have not crashed for long are dropped.
const REMEMBERED: usize = 1024;

/// An instance.
type Place = (AppId, InstanceId);

/// Instances that have crashed.
#[derive(Default)]
pub(super) struct Crashes(BTreeMap<Place, Looping>);

struct Looping {
    pace: Pace,
    /// The last crash, and what came after it.
    held: Vec<Draft>,
    /// Crashes before that, which nobody has heard of.
    untold: u32,
}

impl Looping {
    fn tell(&mut self, now: Instant) -> Vec<Draft> {
        let mut told = std::mem::take(&mut self.held);
        if let Some(What::Crashed { repeats, .. }) = told.first_mut().map(|draft| &mut draft.what) {
            *repeats = std::mem::take(&mut self.untold);
            self.pace.spend(now);
        }
        told
    }
}

impl Crashes {
    /// What is to be reported now that this has happened to an instance.
    pub(super) fn pass(&mut self, place: Place, draft: Draft, now: Instant) -> Vec<Draft> {
        if let What::Crashed { .. } = draft.what {
            return self.crashed(place, draft, now);
        }
        let Some(looping) = self.0.get_mut(&place).filter(|it| !it.held.is_empty()) else {
            return vec![draft];
        };
        looping.held.push(draft);
        match looping.held.last().map(|last| &last.what) {
            // It goes on.
            Some(What::Started { .. } | What::Ready { .. }) => Vec::new(),
            _ => looping.tell(now),
        }
    }

    fn crashed(&mut self, place: Place, draft: Draft, now: Instant) -> Vec<Draft> {
        if self.0.len() >= REMEMBERED {
            self.0
                .retain(|_, it| !it.held.is_empty() || !it.pace.is_over(now));
        }
        let looping = self.0.entry(place).or_insert_with(|| Looping {
            pace: Pace::new(BURST),
            held: Vec::new(),
            untold: 0,
        });
        looping.untold += u32::from(!looping.held.is_empty());
        looping.held = vec![draft];
        if looping.pace.is_open(now) {
            return looping.tell(now);
        }
        // When it is written, the file ends with what its successors have printed.
        looping.held.iter_mut().for_each(|draft| draft.tail = None);
        Vec::new()
    }

    /// The instance is gone.
    pub(super) fn forget(&mut self, place: Place) {
        self.0.remove(&place);
    }

    /// When something that was held back is to be reported.
    pub(super) fn due(&self) -> Option<Instant> {
        let held = self.0.values().filter(|it| !it.held.is_empty());
        held.filter_map(|it| it.pace.opens()).min()
    }

    /// What is to be reported by now.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<Draft> {
        let due = self
            .0
            .values_mut()
            .filter(|it| !it.held.is_empty() && it.pace.is_open(now));
        due.flat_map(|it| it.tell(now)).collect()
    }

    /// All that is held back.
    pub(super) fn all(&mut self) -> Vec<Draft> {
        let now = Instant::now();
        self.0.values_mut().flat_map(|it| it.tell(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rpm_wire::events::Subject;

    use super::*;

    const PLACE: Place = (AppId(1), InstanceId(0));

    fn draft(what: What) -> Draft {
        Draft::new(0, Subject::default(), what)
    }

    fn crash() -> Draft {
        draft(What::Crashed {
            exit_code: Some(1),
            signal: None,
            not_ready: false,
            failures: 1,
            max_restarts: 16,
            retry_in_ms: Some(0),
            why: None,
            last_lines: Vec::new(),
            repeats: 0,
        })
    }

    fn kinds(told: &[Draft]) -> Vec<(&'static str, u32)> {
        let of = |draft: &Draft| match draft.what {
            What::Crashed { repeats, .. } => ("crashed", repeats),
            ref other => (other.kind(), 0),
        };
        told.iter().map(of).collect()
    }

    #[test]
    fn a_loop_is_told_a_few_times_and_then_summed_up_with_how_it_ended() {
        let begun = Instant::now();
        let mut crashes = Crashes::default();
        let mut told = Vec::new();
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            told.extend(crashes.on_time(now));
            for draft in [
                crash(),
                draft(What::Started {
                    restarts: 1,
                    candidate: false,
                }),
                draft(What::Ready { silent: false }),
            ] {
                told.extend(crashes.pass(PLACE, draft, now));
            }
        }
        let one = [("crashed", 0), ("started", 0), ("ready", 0)];
        let mut wanted = one.repeat(BURST as usize);
        // The fifth was told in second 4, and a minute is over in second 64: the last crash before that was in second 63.
        wanted.extend([("crashed", 58), ("started", 0), ("ready", 0)]);
        assert_eq!(kinds(&told), wanted);
        let due = crashes.due().expect("the last ones wait");
        assert_eq!(due, begun + Duration::from_secs(64 + 120));
        assert_eq!(
            kinds(&crashes.on_time(due)),
            [("crashed", 35), ("started", 0), ("ready", 0)]
        );
        assert_eq!(
            crashes.due(),
            None,
            "an instance that has come to rest wakes nobody"
        );
    }

    #[test]
    fn what_ends_a_loop_is_told_at_once_behind_what_was_held() {
        let now = Instant::now();
        let mut crashes = Crashes::default();
        for _ in 0..BURST {
            assert_eq!(crashes.pass(PLACE, crash(), now).len(), 1);
        }
        assert!(crashes.pass(PLACE, crash(), now).is_empty());
        assert!(crashes.pass(PLACE, crash(), now).is_empty());
        let other = (AppId(1), InstanceId(1));
        assert_eq!(crashes.pass(other, crash(), now).len(), 1, "each for itself");
        let told = crashes.pass(PLACE, draft(What::Errored { failures: 7 }), now);
        assert_eq!(kinds(&told), [("crashed", 1), ("errored", 0)]);
        assert!(crashes.all().is_empty());
    }
}
