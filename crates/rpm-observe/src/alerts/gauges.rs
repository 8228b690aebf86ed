//! Figures of apps over time, for rules: how late event loops are, how long requests take and how many fail. Without clock and I/O.
//!
//! What is said of requests is said of all of them within the time of the rule, for one in a hundred of few is chance. So that a short
//! disturbance among many requests is none, it must be so in both halves of that time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use rpm_wire::alerts::{Rule, Source, Trigger};
use rpm_wire::api::AppFigures;

use super::condition::{Read, Reading, span};
use crate::history::{Counted, Moment, quantile};

/// The parts of a window. What is older than the window leaves it part by part.
const PARTS: u64 = 24;
/// When nothing is known for so long, in milliseconds, there is a gap: nobody has counted meanwhile.
const GAP_MS: u64 = 10_000;
/// When nothing is known for so long, in milliseconds, it will not be known soon: a worker that is busy for a while reports afterwards.
const LOST_MS: u64 = 30_000;
/// What is asked of requests: how long the slowest one in a hundred takes.
const SHARE: f64 = 0.99;

/// Requests of some time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    requests: u64,
    errors: u64,
    times: Vec<u64>,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.times.resize(self.times.len().max(other.times.len()), 0);
        for (sum, count) in self.times.iter_mut().zip(&other.times) {
            *sum += count;
        }
    }
}

/// The requests of an app within the last so many milliseconds.
#[derive(Debug)]
struct Window {
    for_ms: u64,
    /// Begin of each part, in milliseconds since the Unix epoch, and what is in it; oldest first.
    parts: VecDeque<(u64, Tally)>,
    bounds_ms: Vec<f64>,
    /// Since when there is no gap, and when something was added last.
    known: Option<(u64, u64)>,
}

impl Window {
    fn new(for_ms: u64) -> Window {
        Window {
            for_ms,
            parts: VecDeque::new(),
            bounds_ms: Vec::new(),
            known: None,
        }
    }

    fn part_ms(&self) -> u64 {
        (self.for_ms / PARTS).max(1_000)
    }

    fn add(&mut self, moment: &Moment, now: u64) {
        let Some(answers) = moment.answers else { return };
        let goes_on = |(_, last): &(u64, u64)| now.checked_sub(*last).is_some_and(|passed| passed <= GAP_MS);
        let known = self
            .known
            .filter(goes_on)
            .filter(|_| self.bounds_ms == moment.bounds_ms);
        if known.is_none() {
            self.parts.clear();
            self.bounds_ms.clone_from(&moment.bounds_ms);
        }
        self.known = Some((known.map_or(now, |(since, _)| since), now));
        let begin = now - now % self.part_ms();
        if self.parts.back().is_none_or(|(at, _)| *at != begin) {
            self.parts.push_back((begin, Tally::default()));
        }
        if let Some((_, tally)) = self.parts.back_mut() {
            tally.add(&Tally {
                requests: answers[1..].iter().sum(),
                errors: answers[4],
                times: moment.times.clone(),
            });
        }
        let oldest = now.saturating_sub(self.for_ms);
        while self.parts.front().is_some_and(|(at, _)| *at < oldest) && self.parts.len() > 1 {
            self.parts.pop_front();
        }
    }

    /// The elder half and the younger one; `None` before it has seen that much time.
    fn halves(&self, now: u64) -> Option<[Tally; 2]> {
        let (since, _) = self.known?;
        if now.saturating_sub(since) < self.for_ms {
            return None;
        }
        let middle = now.saturating_sub(self.for_ms / 2);
        let mut halves = [Tally::default(), Tally::default()];
        for (at, tally) in &self.parts {
            halves[usize::from(*at >= middle)].add(tally);
        }
        Some(halves)
    }
}

/// What is known of an app.
#[derive(Debug, Default)]
struct Gauge {
    counted: Counted,
    /// By the time of the rules that ask.
    windows: HashMap<u64, Window>,
    /// When its event loops, and its requests, were known last, in milliseconds since the Unix epoch; at first when it was seen first.
    delay_known: u64,
    requests_known: u64,
    /// The workers that there were then.
    delay_of: Vec<u64>,
    requests_of: Vec<u64>,
    online: bool,
}

/// The figures of all apps.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    apps: BTreeMap<String, Gauge>,
    /// Rules, and apps that run and have no such figures.
    blind: BTreeSet<(usize, String)>,
}

impl Gauges {
    /// Takes the figures of this moment, and says what the rules of this kind are about.
    pub(crate) fn readings(&mut self, rules: &[Rule], figures: &[AppFigures], now: u64) -> Vec<Read> {
        let ours = |rule: &&Rule| rule.on.source() == Source::Figures;
        self.blind.clear();
        if !rules.iter().any(|rule| ours(&rule)) {
            self.apps.clear();
            return Vec::new();
        }
        self.apps
            .retain(|name, _| figures.iter().any(|figures| figures.app == *name));
        for figures in figures {
            let wanted = rules.iter().filter(ours).filter(|rule| rule.on.counts_requests());
            let wanted = wanted.filter(|rule| rule.is_about(&figures.app));
            let times: BTreeSet<u64> = wanted.map(|rule| rule.for_ms).collect();
            let gauge = self.apps.entry(figures.app.clone()).or_insert_with(|| Gauge {
                delay_known: now,
                requests_known: now,
                ..Gauge::default()
            });
            gauge.add(figures, &times, now);
        }
        let mut readings = Vec::new();
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| ours(rule)) {
            for figures in figures.iter().filter(|figures| rule.is_about(&figures.app)) {
                let Some(gauge) = self.apps.get(&figures.app) else {
                    continue;
                };
                let reading = gauge.reading(rule, figures, now);
                if reading == Reading::Lost && gauge.online {
                    self.blind.insert((number, figures.app.clone()));
                }
                readings.push(Read {
                    rule: number,
                    app: figures.app.clone(),
                    reading,
                });
            }
        }
        readings
    }

    /// Rules, by number, and apps that run and have had no such figures for a while.
    pub(crate) fn blind(&self) -> &BTreeSet<(usize, String)> {
        &self.blind
    }
}

impl Gauge {
    fn add(&mut self, figures: &AppFigures, windows: &BTreeSet<u64>, now: u64) {
        self.online = figures.online > 0;
        if figures.delay_us.is_some() {
            self.delay_known = now;
            self.delay_of.clone_from(&figures.workers);
        }
        if !figures.answered.is_empty() {
            self.requests_known = now;
            self.requests_of.clone_from(&figures.workers);
        }
        let moment = self.counted.moment(now as f64 / 1000.0, figures.clone());
        self.windows.retain(|for_ms, _| windows.contains(for_ms));
        for for_ms in windows {
            let window = self
                .windows
                .entry(*for_ms)
                .or_insert_with(|| Window::new(*for_ms));
            window.add(&moment, now);
        }
    }

    fn reading(&self, rule: &Rule, figures: &AppFigures, now: u64) -> Reading {
        let above = rule.above.unwrap_or_default();
        let (known, of, is_known) = match rule.on {
            Trigger::LoopDelay => (self.delay_known, &self.delay_of, figures.delay_us.is_some()),
            _ => (
                self.requests_known,
                &self.requests_of,
                !figures.answered.is_empty(),
            ),
        };
        if !is_known {
            // A worker that has reported and is silent is not well: it is blocked, so what lasts goes on.
            let is_silent = self.online && figures.workers.iter().any(|worker| of.contains(worker));
            return match !is_silent && now.saturating_sub(known) >= LOST_MS {
                true => Reading::Lost,
                false => Reading::Unknown,
            };
        }
        if let (Trigger::LoopDelay, Some(us)) = (rule.on, figures.delay_us) {
            return delay(us as f64 / 1000.0, above, rule.for_ms);
        }
        let halves = self.windows.get(&rule.for_ms).and_then(|window| {
            let halves = window.halves(now)?;
            Some((halves, window.bounds_ms.as_slice()))
        });
        match halves {
            Some((halves, bounds)) => requests(rule, above, &halves, bounds),
            None => Reading::Unknown,
        }
    }
}

fn delay(ms: f64, above: f64, for_ms: u64) -> Reading {
    let holds = ms > above;
    let text = match holds {
        true => format!(
            "the event loop is {ms:.0} ms late (p99), more than {above:.0} ms for {}",
            span(for_ms)
        ),
        false => format!("the event loop is {ms:.0} ms late (p99)"),
    };
    Reading::Known { holds, text }
}

/// A rule about requests: it holds if it does in both halves. Of too few nothing is known, and when there are none it is over.
fn requests(rule: &Rule, above: f64, halves: &[Tally; 2], bounds_ms: &[f64]) -> Reading {
    let mut all = halves[0].clone();
    all.add(&halves[1]);
    let lasting = span(rule.for_ms);
    let least = rule.min_requests.unwrap_or(Rule::USUAL_MIN_REQUESTS);
    let figure = |tally: &Tally| match rule.on {
        Trigger::Latency => quantile(&tally.times, bounds_ms, SHARE).map(|seconds| seconds * 1000.0),
        _ => (tally.requests > 0).then(|| 100.0 * tally.errors as f64 / tally.requests as f64),
    };
    if (1..u64::from(least)).contains(&all.requests) {
        return Reading::Unknown;
    }
    let mut each = halves.iter();
    let holds = each.all(|half| figure(half).is_some_and(|figure| figure > above));
    let text = match (figure(&all), rule.on) {
        (None, _) => format!("no requests within {lasting}"),
        (Some(ms), Trigger::Latency) => {
            let more = if holds {
                format!(", more than {above:.0} ms")
            } else {
                String::new()
            };
            let count = all.requests;
            format!("p99 of {count} requests within {lasting} is {ms:.0} ms{more}")
        }
        (Some(share), _) => {
            let more = if holds {
                format!(", more than {above} %")
            } else {
                String::new()
            };
            let (errors, count) = (all.errors, all.requests);
            format!("{errors} of {count} requests within {lasting} got 5xx: {share:.1} %{more}")
        }
    };
    Reading::Known { holds, text }
}

#[cfg(test)]
mod tests {
    use rpm_wire::api::Answered;

    use super::super::tests::rule;
    use super::*;

    /// A whole number of parts of every window here.
    const NOW: u64 = 1_000_000_000;

    /// The figures of an app whose proxy has answered so much since it began: (well, with 5xx, slowly).
    fn figures(totals: [u64; 3]) -> AppFigures {
        let [good, bad, slow] = totals;
        let answered = Answered {
            classes: [0, good, 0, 0, bad],
            times: vec![good + bad - slow, slow, 0],
        };
        AppFigures {
            app: "api".to_owned(),
            online: 1,
            workers: vec![1],
            bounds_ms: vec![100.0, 2_000.0],
            answered: BTreeMap::from([(0, answered)]),
            ..AppFigures::default()
        }
    }

    /// What is read at each second if so much was added in it: how often it holds, by the second.
    fn held(rule: &Rule, added: impl Fn(u64) -> Option<[u64; 3]>, seconds: u64) -> Vec<u64> {
        let (mut gauges, mut totals, mut held) = (Gauges::default(), [0; 3], Vec::new());
        for second in 0..seconds {
            let figures = match added(second) {
                Some(added) => {
                    totals = std::array::from_fn(|at| totals[at] + added[at]);
                    figures(totals)
                }
                None => AppFigures {
                    answered: BTreeMap::new(),
                    ..figures(totals)
                },
            };
            let rules = std::slice::from_ref(rule);
            let read = gauges.readings(rules, &[figures], NOW + second * 1_000);
            assert_eq!(read.len(), 1);
            if matches!(read[0].reading, Reading::Known { holds: true, .. }) {
                held.push(second);
            }
        }
        held
    }

    #[test]
    fn requests_are_looked_at_over_the_whole_time() {
        let errors = Rule {
            above: Some(5.0),
            for_ms: 24_000,
            ..rule(Trigger::ErrorRate)
        };
        let latency = Rule {
            above: Some(500.0),
            for_ms: 24_000,
            ..rule(Trigger::Latency)
        };
        type Added = fn(u64) -> Option<[u64; 3]>;
        let rows: [(&Rule, Added, Option<u64>, &str); 10] = [
            // The first figures are totals, of which nothing is known.
            (&errors, |_| Some([9, 1, 0]), Some(25), "a tenth fails"),
            (&errors, |_| Some([100, 4, 0]), None, "fewer than a twentieth"),
            (
                &errors,
                |at| Some([9, u64::from(at == 30), 0]),
                None,
                "one of many",
            ),
            (
                &errors,
                |at| Some([u64::from(at % 20 == 0), u64::from(at % 20 == 10), 0]),
                None,
                "one of two",
            ),
            (
                &errors,
                |at| Some([9, u64::from(at == 30) * 100, 0]),
                None,
                "a bad second is in one half alone",
            ),
            (
                &errors,
                |at| Some([9, if at < 40 { 0 } else { 9 }, 0]),
                Some(53),
                "from second 40 on",
            ),
            (
                &errors,
                |at| (at % 30 != 20).then_some([9, 1, 0]),
                Some(25),
                "one second is not known",
            ),
            (
                &errors,
                |at| (at % 20 < 5).then_some([9, 1, 0]),
                None,
                "gaps: never so long",
            ),
            (
                &latency,
                |_| Some([100, 0, 3]),
                Some(25),
                "three of a hundred are slow",
            ),
            (
                &latency,
                |at| Some([100, 0, u64::from(at % 2 == 0)]),
                None,
                "one of two hundred is",
            ),
        ];
        for (rule, added, first, what) in rows {
            let held = held(rule, added, 100);
            assert_eq!(held.first().copied(), first, "{what}: {held:?}");
        }
        // It ends when the younger half is well.
        let ended = held(&errors, |at| Some([9, u64::from(at < 50) * 9, 0]), 100);
        assert_eq!((ended.first(), ended.last()), (Some(&25), Some(&61)), "{ended:?}");
    }

    #[test]
    fn of_few_requests_nothing_is_concluded() {
        let mut errors = [rule(Trigger::ErrorRate)];
        errors[0].for_ms = 24_000;
        let (mut gauges, mut totals) = (Gauges::default(), [0; 3]);
        // Many that fail, then few that do not, then none, then few that fail.
        for second in 0..300_u64 {
            totals[1] += u64::from(second < 100) * 9 + u64::from(second > 200 && second % 5 == 0);
            totals[0] += u64::from((100..150).contains(&second) && second % 5 == 0);
            let read = gauges.readings(&errors, &[figures(totals)], NOW + second * 1_000);
            let expected = match second {
                30..=99 => Some(true),
                126..=150 | 206..=299 => None,
                175..=199 => Some(false),
                _ => continue,
            };
            let holds = match &read[0].reading {
                Reading::Known { holds, .. } => Some(*holds),
                _ => None,
            };
            assert_eq!(holds, expected, "second {second}");
        }
    }

    #[test]
    fn a_worker_that_was_known_and_is_silent_is_not_well() {
        let rules = [rule(Trigger::LoopDelay), rule(Trigger::Latency)];
        let known = AppFigures {
            delay_us: Some(250_000),
            ..figures([0; 3])
        };
        let silent = |online, worker| AppFigures {
            app: "api".to_owned(),
            online,
            workers: vec![worker],
            ..AppFigures::default()
        };
        for (online, worker, expected, what) in [
            (1, 1, Reading::Unknown, "it is blocked"),
            (1, 2, Reading::Lost, "another one, which is not measured"),
            (0, 1, Reading::Lost, "it was stopped"),
        ] {
            let mut gauges = Gauges::default();
            gauges.readings(&rules, std::slice::from_ref(&known), NOW);
            let read = gauges.readings(&rules, &[silent(online, worker)], NOW + LOST_MS);
            let all: Vec<&Reading> = read.iter().map(|read| &read.reading).collect();
            assert_eq!(all, [&expected, &expected], "{what}");
            let blind = if expected == Reading::Lost && online > 0 {
                2
            } else {
                0
            };
            assert_eq!(gauges.blind().len(), blind, "{what}");
        }
    }

    #[test]
    fn an_app_without_figures_is_named() {
        let rules = [
            rule(Trigger::LoopDelay),
            rule(Trigger::Latency),
            rule(Trigger::Crash),
        ];
        let mut gauges = Gauges::default();
        let silent = |online| AppFigures {
            app: "web".to_owned(),
            online,
            ..AppFigures::default()
        };
        let late = AppFigures {
            delay_us: Some(250_000),
            ..figures([0; 3])
        };
        for (second, online, blind) in [(0, 1, 0), (29, 1, 0), (30, 1, 2), (31, 0, 0), (32, 1, 2)] {
            let read = gauges.readings(&rules, &[late.clone(), silent(online)], NOW + second * 1_000);
            assert_eq!(read.len(), 4, "two rules, two apps");
            assert_eq!(gauges.blind().len(), blind, "second {second}");
            assert!(gauges.blind().iter().all(|(_, app)| app == "web"));
            assert!(
                matches!(&read[0].reading, Reading::Known { holds: true, text } if text.contains("250 ms late"))
            );
        }
        assert_eq!(gauges.readings(&rules[2..], &[late], NOW), []);
        assert!(gauges.blind().is_empty());
    }
}
