//! The last pages of metrics of workers that have drained: what they have counted would be lost with them.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rpm_core::WorkerId;
use rpm_wire::api::ScrapedPage;

/// Whoever has asked within this time is believed to ask again. It is also how long a last page is kept.
const INTERESTED_FOR: Duration = Duration::from_secs(150);
/// Maximum number of last pages, and of their bytes together: the oldest go first.
const KEPT_PAGES: usize = 256;
const KEPT_BYTES: usize = 16 << 20;

/// Last pages, and who is asked for theirs.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// When somebody asked for the pages of all workers.
    asked: Option<Instant>,
    last: VecDeque<(Instant, ScrapedPage)>,
    /// Workers that have drained, and are asked for their last pages before they are ended.
    awaited: BTreeSet<WorkerId>,
    /// Those of them that are to be asked yet.
    begun: Vec<WorkerId>,
    done: BTreeSet<WorkerId>,
}

impl Pages {
    /// Somebody asks: returns the last pages that are kept.
    pub(crate) fn ask(&mut self, now: Instant) -> Vec<ScrapedPage> {
        self.asked = Some(now);
        self.forget_old(now);
        self.last.iter().map(|(_, page)| page.clone()).collect()
    }

    /// True while somebody asks for pages.
    fn wanted(&self, now: Instant) -> bool {
        self.asked
            .is_some_and(|at| now.saturating_duration_since(at) < INTERESTED_FOR)
    }

    /// True if the last page of a worker is wanted and was not read yet; `has_one`: its app has pages.
    pub(crate) fn is_due(&self, worker: WorkerId, has_one: bool, now: Instant) -> bool {
        has_one && !self.done.contains(&worker) && self.wanted(now)
    }

    /// A worker has drained, and its last page is due: it is asked for it, once.
    pub(crate) fn read(&mut self, worker: WorkerId) {
        if self.awaited.insert(worker) {
            self.begun.push(worker);
        }
    }

    /// The workers that are to be asked now.
    pub(crate) fn begun(&mut self) -> Vec<WorkerId> {
        std::mem::take(&mut self.begun)
    }

    /// The last page of a worker has come, or none: it may be ended.
    pub(crate) fn take(&mut self, worker: WorkerId, page: Option<ScrapedPage>, now: Instant) {
        if !self.awaited.remove(&worker) {
            return;
        }
        self.done.insert(worker);
        self.last.extend(page.map(|page| (now, page)));
        self.forget_old(now);
    }

    /// A worker is gone.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.awaited.remove(&worker);
        self.done.remove(&worker);
    }

    fn forget_old(&mut self, now: Instant) {
        let length = |page: &ScrapedPage| page.page.as_ref().map_or(0, String::len);
        let mut bytes: usize = self.last.iter().map(|(_, page)| length(page)).sum();
        while let Some((at, page)) = self.last.front() {
            let old = now.saturating_duration_since(*at) >= INTERESTED_FOR;
            if !old && self.last.len() <= KEPT_PAGES && bytes <= KEPT_BYTES {
                return;
            }
            bytes -= length(page);
            self.last.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> ScrapedPage {
        ScrapedPage {
            page: Some(text.to_owned()),
            ..ScrapedPage::default()
        }
    }

    #[test]
    fn a_worker_waits_for_its_last_page_while_somebody_asks() {
        let (mut pages, now) = (Pages::default(), Instant::now());
        let (one, other) = (WorkerId(1), WorkerId(2));
        assert!(!pages.is_due(one, true, now), "nobody asks");
        assert_eq!(pages.ask(now), []);
        assert!(!pages.is_due(one, false, now), "there is none");
        assert!(pages.is_due(one, true, now));
        pages.read(one);
        pages.read(one);
        assert_eq!(pages.begun(), [one], "once");
        pages.take(other, Some(page("x")), now);
        assert_eq!(pages.ask(now), [], "nobody waits for that");
        pages.take(one, Some(page("1")), now);
        assert!(!pages.is_due(one, true, now), "it was asked");
        assert_eq!(pages.ask(now), [page("1")]);
        let later = now + INTERESTED_FOR;
        assert!(!pages.is_due(other, true, later), "nobody asks any more");
        assert_eq!(pages.ask(later), [], "it is old");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut pages, now) = (Pages::default(), Instant::now());
        pages.ask(now);
        let big = "x".repeat(KEPT_BYTES / 4);
        for number in 0..8 {
            pages.read(WorkerId(number));
            pages.take(WorkerId(number), Some(page(&big)), now);
        }
        assert_eq!(pages.ask(now).len(), 4);
        for number in 100..1000 {
            pages.read(WorkerId(number));
            pages.take(WorkerId(number), Some(page("")), now);
            pages.forget(WorkerId(number));
        }
        assert_eq!(pages.ask(now).len(), KEPT_PAGES);
    }
}
