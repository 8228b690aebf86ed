//! Workers that do not accept connections: a busy one leaves steering and comes back many times a second, which is not worth a word. It is
//! if it lasts, or if connections had to be moved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_core::SlotId;
use rpm_wire::events::What;

use super::pace::Pace;
use crate::events::subject::Of;

/// A worker that accepts nothing for so long is frozen, whatever waits for it.
const MATTERS_AFTER: Duration = Duration::from_secs(1);
/// Reports of one slot at once.
const BURST: u32 = 3;
/// A freeze that was reported and goes on has not been heard of for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Above this many slots those of which nothing is to be said are dropped.
const REMEMBERED: usize = 256;

/// Slots whose workers did not accept.
#[derive(Default)]
pub(super) struct Freezes(BTreeMap<SlotId, Slot>);

struct Slot {
    of: Of,
    /// Out of steering since then.
    since: Option<Instant>,
    queued: u32,
    /// That was reported.
    told: bool,
    /// How often it mattered and was not reported.
    untold: u32,
    /// In the present freeze something was moved.
    moved_now: bool,
    /// Connections that were moved, not reported yet.
    moved: u64,
    /// How long the last freeze that mattered was.
    lasted_ms: u64,
    /// When it was heard of last.
    seen: Instant,
    pace: Pace,
}

impl Slot {
    fn new(of: Of, now: Instant) -> Slot {
        Slot {
            of,
            since: None,
            queued: 0,
            told: false,
            untold: 0,
            moved_now: false,
            moved: 0,
            lasted_ms: 0,
            seen: now,
            pace: Pace::new(BURST),
        }
    }

    /// When something is to be said of it, as far as is known.
    fn due(&self) -> Option<Instant> {
        let lasts = self
            .since
            .filter(|_| !self.told)
            .map(|since| since + MATTERS_AFTER);
        let waits = self.moved > 0 || (self.since.is_none() && self.untold > 0);
        let due = [waits.then_some(self.seen), lasts].into_iter().flatten().min()?;
        Some(self.pace.opens().map_or(due, |opens| opens.max(due)))
    }

    fn tell(&mut self, now: Instant) -> Vec<(Of, What)> {
        let (queued, untold) = (self.queued, self.untold);
        let frozen = match self.since {
            Some(_) if !self.told => Some(untold),
            None => untold.checked_sub(1),
            Some(_) => None,
        };
        let over = self.since.is_none() && frozen.is_some();
        let connections = std::mem::take(&mut self.moved);
        if frozen.is_some() {
            (self.told, self.untold) = (!over, 0);
        }
        self.pace.spend(now);
        let told = [
            frozen.map(|repeats| What::Frozen { queued, repeats }),
            (connections > 0).then_some(What::Rescued { connections }),
            over.then_some(What::Recovered {
                after_ms: self.lasted_ms,
            }),
        ];
        told.into_iter().flatten().map(|what| (self.of, what)).collect()
    }

    /// It was closed, perhaps, and nothing more is said of it.
    fn is_forgotten(&self, now: Instant) -> bool {
        self.told && now.saturating_duration_since(self.seen) > FORGOTTEN_AFTER
    }

    fn is_at_rest(&self, now: Instant) -> bool {
        self.since.is_none() && self.moved == 0 && self.untold == 0 && self.pace.is_over(now)
    }
}

impl Freezes {
    fn make_room(&mut self, now: Instant) {
        if self.0.len() >= REMEMBERED {
            self.0
                .retain(|_, slot| !slot.is_at_rest(now) && !slot.is_forgotten(now));
        }
    }

    /// A slot has left steering.
    pub(super) fn stalled(&mut self, slot: SlotId, of: Of, queued: u32, now: Instant) {
        self.make_room(now);
        let slot = self.0.entry(slot).or_insert_with(|| Slot::new(of, now));
        (slot.of, slot.queued, slot.moved_now, slot.told) = (of, queued, false, false);
        (slot.since, slot.seen) = (Some(now), now);
    }

    /// It is back.
    pub(super) fn recovered(&mut self, id: SlotId, now: Instant) -> Vec<(Of, What)> {
        let Some(slot) = self.0.get_mut(&id) else {
            return Vec::new();
        };
        let Some(since) = slot.since.take() else {
            return Vec::new();
        };
        let frozen = now.saturating_duration_since(since);
        let after_ms = u64::try_from(frozen.as_millis()).unwrap_or(u64::MAX);
        slot.seen = now;
        let mut told = Vec::new();
        if slot.told {
            told.push((slot.of, What::Recovered { after_ms }));
        } else if slot.moved_now || frozen >= MATTERS_AFTER {
            slot.untold += 1;
            slot.lasted_ms = after_ms;
        }
        if slot.is_at_rest(now) {
            self.0.remove(&id);
        }
        told
    }

    /// Forgets slots that are not out of steering any more for another reason than that their workers accept: they were closed, or have other
    /// workers, or none.
    fn forget_left(&mut self, is_out: impl Fn(SlotId) -> bool) {
        for (id, slot) in &mut self.0 {
            if slot.since.is_some() && !is_out(*id) {
                slot.since = None;
            }
        }
    }

    /// Connections were moved out of its queue.
    pub(super) fn moved(&mut self, slot: SlotId, of: Of, connections: u64, now: Instant) -> Vec<(Of, What)> {
        self.make_room(now);
        let slot = self.0.entry(slot).or_insert_with(|| Slot::new(of, now));
        slot.moved += connections;
        (slot.moved_now, slot.seen) = (true, now);
        if slot.since.is_none() {
            slot.of = of;
        }
        match slot.pace.is_open(now) {
            true => slot.tell(now),
            false => Vec::new(),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(Slot::due).min()
    }

    /// `is_out`: the slot is out of steering because its worker does not accept.
    pub(super) fn on_time(&mut self, now: Instant, is_out: impl Fn(SlotId) -> bool) -> Vec<(Of, What)> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.forget_left(is_out);
        let due = self
            .0
            .values_mut()
            .filter(|slot| slot.due().is_some_and(|due| due <= now));
        due.flat_map(|slot| slot.tell(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rpm_core::WorkerId;

    use super::*;

    const SLOT: SlotId = SlotId(3);
    const OF: Of = Of::Worker(WorkerId(7));

    fn kinds(told: Vec<(Of, What)>) -> Vec<What> {
        told.into_iter().map(|(_, what)| what).collect()
    }

    #[test]
    fn a_busy_worker_that_comes_and_goes_is_not_worth_a_word() {
        let begun = Instant::now();
        let mut freezes = Freezes::default();
        for ms in (0..60_000).step_by(10) {
            let now = begun + Duration::from_millis(ms);
            freezes.stalled(SLOT, OF, 1, now);
            assert!(freezes.on_time(now, |_| true).is_empty());
            assert!(freezes.recovered(SLOT, now + Duration::from_millis(5)).is_empty());
            assert_eq!(freezes.due(), None);
        }
        assert!(freezes.0.is_empty(), "nothing is kept of it");
    }

    #[test]
    fn one_that_lasts_is_told_after_a_second_and_so_is_its_end() {
        let begun = Instant::now();
        let mut freezes = Freezes::default();
        freezes.stalled(SLOT, OF, 4, begun);
        assert_eq!(freezes.due(), Some(begun + MATTERS_AFTER));
        let told = kinds(freezes.on_time(begun + MATTERS_AFTER, |_| true));
        assert_eq!(
            told,
            [What::Frozen {
                queued: 4,
                repeats: 0
            }]
        );
        assert_eq!(freezes.due(), None, "nobody is woken for it again");
        let told = kinds(freezes.recovered(SLOT, begun + 3 * MATTERS_AFTER));
        assert_eq!(told, [What::Recovered { after_ms: 3000 }]);
    }

    #[test]
    fn what_is_moved_again_and_again_is_summed_up() {
        let begun = Instant::now();
        let mut freezes = Freezes::default();
        let mut told = Vec::new();
        for ms in (0..100_000).step_by(100) {
            let now = begun + Duration::from_millis(ms);
            told.extend(freezes.on_time(now, |_| true));
            freezes.stalled(SLOT, OF, 2, now);
            told.extend(freezes.moved(SLOT, OF, 2, now));
            told.extend(freezes.recovered(SLOT, now + Duration::from_millis(50)));
        }
        let told = kinds(told);
        let frozen = told
            .iter()
            .filter(|what| matches!(what, What::Frozen { .. }))
            .count();
        // Three at once, the fourth when a minute is over.
        assert_eq!(frozen, 4, "{told:?}");
        let recovered = told
            .iter()
            .filter(|what| matches!(what, What::Recovered { .. }))
            .count();
        assert_eq!(recovered, frozen, "{told:?}");
        let of = |what: &What| match what {
            What::Rescued { connections } => *connections,
            _ => 0,
        };
        let moved: u64 = told.iter().map(of).sum();
        let waiting = freezes.0[&SLOT].moved;
        assert_eq!(moved + waiting, 2 * 1000, "none is forgotten");
        assert!(freezes.due().is_some(), "and those that wait are told");
    }

    #[test]
    fn a_queue_whose_worker_is_gone_is_told_as_moved_alone() {
        let mut freezes = Freezes::default();
        let told = kinds(freezes.moved(SLOT, OF, 9, Instant::now()));
        assert_eq!(told, [What::Rescued { connections: 9 }]);
        assert_eq!(freezes.due(), None);
    }

    #[test]
    fn a_slot_that_was_closed_while_it_was_out_is_not_frozen() {
        let (mut freezes, begun) = (Freezes::default(), Instant::now());
        freezes.stalled(SLOT, OF, 3, begun);
        let due = freezes.due().expect("it may last");
        assert!(kinds(freezes.on_time(due, |_| false)).is_empty());
        assert_eq!(freezes.due(), None);
    }
}
