//! A batch on its way: what was taken, what is tried again, and what the receiver refuses for good. Without I/O or clock.
//!
//! What refuses everything may be something else than the receiver: a port of TLS, a proxy, an index that is not set up. So a record is given up only
//! after the receiver has taken something. Where it has not, it is given a line of our own when it has refused a record alone, which is all right by
//! any measure: if it takes that, the record is wrong. If it refuses that too, another record of the batch is tried, a different one each time, and then
//! there is a pause.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::batch::part_of;
use super::pace::Pace;

/// Records that are tried one after the other are so far apart in the batch, so that they are of different logs: a prime.
const STRIDE: usize = 619;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything was taken.
    Taken,
    /// These were not, by their numbers in the request; the others were.
    Partly {
        again: Vec<usize>,
        refused: Vec<usize>,
        why: String,
    },
    /// Something in it is wrong, or it is too long: a smaller part may be taken. What says so may also be something else than the receiver, at a wrong
    /// address.
    Refused(String),
    /// Each of the records was refused, and it may be no fault of theirs: the same would be said of any if the receiver is not set up for them.
    Doubtful(String),
    /// It was not done in time. So many of the first records have been taken all the same.
    Slow { taken: usize, why: String },
    /// Nothing was taken, and it may go well later.
    Later { why: String, after: Option<Duration> },
}

impl Outcome {
    /// What became of records that were sent one by one, `sent` of `all`; an outer error: time was up.
    pub(super) fn of_messages<E>(
        done: Result<io::Result<()>, E>,
        sent: usize,
        all: usize,
        within: Duration,
    ) -> Outcome {
        match done {
            Ok(Ok(())) => Outcome::Taken,
            Ok(Err(error)) if sent == 0 => Outcome::Later {
                why: error.to_string(),
                after: None,
            },
            Ok(Err(error)) => Outcome::Partly {
                again: (sent..all).collect(),
                refused: Vec::new(),
                why: error.to_string(),
            },
            Err(_) => Outcome::Slow {
                taken: sent,
                why: format!("not done within {} s", within.as_secs()),
            },
        }
    }
}

/// Why what is left is not sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// The request failed; and the time that the receiver asks for.
    Failed(Option<Duration>),
    /// It is sent in smaller parts.
    Split,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Numbers of records in the batch that were taken.
    pub taken: Vec<usize>,
    /// Those that are given up.
    pub refused: Vec<usize>,
    pub pause: Option<Pause>,
    /// Why something was not taken.
    pub why: Option<String>,
}

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'d> {
    /// These records of the batch.
    Records(&'d [usize]),
    /// A line of our own.
    Own,
}

/// Finds out whether the receiver takes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trial {
    /// There is no doubt, or none yet.
    None,
    /// Our own line is sent.
    Own,
    /// It was refused, and this record is sent.
    Other([usize; 1]),
    /// Something was taken a moment ago: what is refused now is wrong.
    Passed,
}

/// The records of a batch that are not settled yet. A part is cut when its turn comes, so that it is as long as the pace is by then: what is too long is not
/// tried again for each part of a batch, and after an outage a batch is not sent record by record to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// How many bytes each record of the batch takes in a request, about.
    sizes: Vec<usize>,
    /// The first part is sent next, and no longer than the pace. The others are not cut yet.
    parts: VecDeque<Vec<usize>>,
    pace: Pace,
    /// The receiver has taken something: what it refuses is wrong.
    is_proven: bool,
    trial: Trial,
    /// Trials that have failed.
    rounds: usize,
}

impl Delivery {
    pub(super) fn new(sizes: Vec<usize>, pace: Pace, is_proven: bool) -> Delivery {
        let mut delivery = Delivery {
            parts: VecDeque::from([(0..sizes.len()).collect()]),
            sizes,
            pace,
            is_proven,
            trial: Trial::None,
            rounds: 0,
        };
        delivery.cut();
        delivery
    }

    /// How long parts are by now.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// True if the receiver has taken something.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// What is sent next; `None` when everything is settled.
    pub(super) fn part(&self) -> Option<Part<'_>> {
        match &self.trial {
            Trial::Own => Some(Part::Own),
            Trial::Other(record) => Some(Part::Records(record)),
            Trial::None | Trial::Passed => self.parts.front().map(|part| Part::Records(part)),
        }
    }

    /// The receiver has answered to what was to be sent.
    pub(super) fn answered(&mut self, outcome: Outcome) -> Settled {
        let is_late = matches!(outcome, Outcome::Slow { .. });
        let settled = match self.trial {
            Trial::Own => self.own_answered(outcome),
            Trial::Other([record]) => self.other_answered(record, outcome),
            Trial::None | Trial::Passed => self.part_answered(outcome),
        };
        if !is_late {
            self.pace.taken(settled.taken.len());
        }
        self.cut();
        settled
    }

    /// Cuts the first part.
    fn cut(&mut self) {
        let Some(mut part) = self.parts.pop_front() else {
            return;
        };
        let sizes = part.iter().filter_map(|number| self.sizes.get(*number).copied());
        let rest = part.split_off(part_of(sizes, self.pace.limit()));
        for part in [rest, part] {
            if !part.is_empty() {
                self.parts.push_front(part);
            }
        }
    }

    fn part_answered(&mut self, outcome: Outcome) -> Settled {
        let mut settled = Settled::default();
        let Some(mut part) = self.parts.pop_front() else {
            return settled;
        };
        match outcome {
            Outcome::Taken => {
                settled.taken = part;
                self.is_proven = true;
            }
            Outcome::Partly { again, refused, why } => {
                settled.why = Some(why);
                self.parted(&part, &again, &refused, &mut settled);
            }
            Outcome::Refused(why) => {
                settled.why = Some(why);
                if part.len() > 1 {
                    settled.pause = Some(Pause::Split);
                    self.split(part);
                } else {
                    self.refused(part, self.is_proven, &mut settled);
                }
            }
            Outcome::Doubtful(why) => {
                settled.why = Some(why);
                self.refused(part, self.trial == Trial::Passed, &mut settled);
            }
            Outcome::Slow { taken, why } => {
                settled.why = Some(why);
                self.pace.late(part.len());
                let rest = part.split_off(taken.min(part.len()));
                settled.taken = part;
                settled.pause = match (settled.taken.is_empty(), rest.is_empty()) {
                    (true, _) => Some(Pause::Failed(None)),
                    (false, false) => Some(Pause::Split),
                    (false, true) => None,
                };
                if !rest.is_empty() {
                    self.parts.push_front(rest);
                }
            }
            Outcome::Later { why, after } => {
                settled.why = Some(why);
                settled.pause = Some(Pause::Failed(after));
                self.trial = Trial::None;
                self.parts.push_front(part);
            }
        }
        settled
    }

    /// Some records of a part were not taken.
    fn parted(&mut self, part: &[usize], again: &[usize], refused: &[usize], settled: &mut Settled) {
        let chosen = |numbers: &[usize]| {
            let chosen = numbers.iter().filter_map(|number| part.get(*number).copied());
            chosen.collect::<Vec<_>>()
        };
        let (mut again, mut refused) = (chosen(again), chosen(refused));
        let is_left = |number: &usize| !again.contains(number) && !refused.contains(number);
        settled.taken = part.iter().copied().filter(is_left).collect();
        self.is_proven |= !settled.taken.is_empty();
        if !self.is_proven && !refused.is_empty() {
            if again.is_empty() {
                self.refused(part.to_vec(), false, settled);
                return;
            }
            (again, refused) = (part.to_vec(), Vec::new());
        }
        settled.refused = refused;
        if !again.is_empty() {
            settled.pause = Some(Pause::Failed(None));
            self.parts.push_front(again);
        }
    }

    /// The front part was refused; `is_final`: because of what is in it.
    fn refused(&mut self, part: Vec<usize>, is_final: bool, settled: &mut Settled) {
        if is_final {
            settled.refused = part;
            return;
        }
        self.parts.push_front(part);
        self.trial = Trial::Own;
        settled.pause = Some(Pause::Split);
    }

    fn split(&mut self, mut part: Vec<usize>) {
        let rest = part.split_off(part.len().div_ceil(2));
        if !rest.is_empty() {
            self.parts.push_front(rest);
        }
        self.parts.push_front(part);
    }

    fn own_answered(&mut self, outcome: Outcome) -> Settled {
        let (is_taken, settled) = tried(outcome);
        match is_taken {
            Some(true) => self.pass(),
            Some(false) => match self.other() {
                Some(record) => self.trial = Trial::Other([record]),
                None => return self.fail(settled),
            },
            None => {}
        }
        settled
    }

    fn other_answered(&mut self, record: usize, outcome: Outcome) -> Settled {
        let (is_taken, mut settled) = tried(outcome);
        match is_taken {
            Some(true) => {
                self.pass();
                settled.taken = vec![record];
                for part in &mut self.parts {
                    part.retain(|other| *other != record);
                }
                self.parts.retain(|part| !part.is_empty());
            }
            Some(false) => return self.fail(settled),
            None => {}
        }
        settled
    }

    /// The receiver takes something, so it says once more what it refuses.
    fn pass(&mut self) {
        self.is_proven = true;
        self.trial = Trial::Passed;
    }

    /// It has refused everything that was tried.
    fn fail(&mut self, settled: Settled) -> Settled {
        self.trial = Trial::None;
        self.rounds = self.rounds.wrapping_add(1);
        Settled {
            pause: Some(Pause::Failed(None)),
            ..settled
        }
    }

    /// A record behind the first part: the newest, and another one in each round.
    fn other(&self) -> Option<usize> {
        let others: Vec<usize> = self.parts.iter().skip(1).flatten().copied().collect();
        let stride = if others.len().is_multiple_of(STRIDE) {
            1
        } else {
            STRIDE
        };
        let number = self.rounds.wrapping_mul(stride).checked_rem(others.len())?;
        others.iter().rev().nth(number).copied()
    }
}

/// Whether a record that was sent alone was taken; not known if it is asked again, after a pause.
fn tried(outcome: Outcome) -> (Option<bool>, Settled) {
    let (is_taken, why, pause) = match outcome {
        Outcome::Taken => (Some(true), None, None),
        Outcome::Refused(why) | Outcome::Doubtful(why) => (Some(false), Some(why), Some(Pause::Split)),
        Outcome::Partly { again, refused, why } => match (again.is_empty(), refused.is_empty()) {
            (true, true) => (Some(true), None, None),
            (true, false) => (Some(false), Some(why), Some(Pause::Split)),
            (false, _) => (None, Some(why), Some(Pause::Failed(None))),
        },
        Outcome::Slow { why, .. } => (None, Some(why), Some(Pause::Failed(None))),
        Outcome::Later { why, after } => (None, Some(why), Some(Pause::Failed(after))),
    };
    let settled = Settled {
        why,
        pause,
        ..Settled::default()
    };
    (is_taken, settled)
}

#[cfg(test)]
mod tests;
