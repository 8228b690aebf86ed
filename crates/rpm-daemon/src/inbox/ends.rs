//! Ends of processes, gathered: what must be looked at for one is looked at for all that ended with it.

use rpm_core::WorkerId;
use tokio::sync::mpsc::Receiver;
use tokio::task::yield_now;

use crate::inbox::Event;
use crate::processes::ProcessEvent;

/// More are left to the next step.
const AT_ONCE: usize = 1024;

/// Processes that have ended, and what happened after that.
#[derive(Default)]
pub(crate) struct Ends {
    /// Workers whose leaders have ended.
    pub(crate) leaders: Vec<WorkerId>,
    /// Those of which nothing is left.
    pub(crate) trees: Vec<WorkerId>,
    /// The first event of another kind.
    pub(crate) next: Option<Event>,
}

impl Ends {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.leaders.len() + self.trees.len()
    }

    /// Takes it, unless it is of another kind.
    fn take(&mut self, event: Event) {
        match event {
            Event::Process(ProcessEvent::LeaderExited(worker)) => self.leaders.push(worker),
            Event::Process(ProcessEvent::TreeGone(worker)) => self.trees.push(worker),
            other => self.next = Some(other),
        }
    }

    fn is_full(&self) -> bool {
        self.next.is_some() || self.len() >= AT_ONCE
    }
}

/// `first`, and the ends that follow it at once. Each process is waited for by a task of its own, and a few dozen of those run between two
/// turns of this one, so it waits for further turns as long as they bring any.
pub(crate) async fn gather(first: Event, inbox: &mut Receiver<Event>) -> Ends {
    let mut ends = Ends::default();
    let mut event = Some(first);
    while let Some(new) = event {
        ends.take(new);
        while !ends.is_full()
            && let Ok(new) = inbox.try_recv()
        {
            ends.take(new);
        }
        if ends.is_full() {
            break;
        }
        yield_now().await;
        event = inbox.try_recv().ok();
    }
    ends
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn exited(worker: u64) -> Event {
        ProcessEvent::LeaderExited(WorkerId(worker)).into()
    }

    #[tokio::test]
    async fn all_that_end_together_are_gathered_up_to_the_first_other_event() {
        let (sender, mut inbox) = mpsc::channel(1024);
        for worker in 1..500 {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send(exited(worker)).await });
        }
        let ends = gather(exited(0), &mut inbox).await;
        assert_eq!((ends.leaders.len(), ends.trees.len()), (500, 0));
        assert!(ends.next.is_none());
        for event in [
            ProcessEvent::TreeGone(WorkerId(7)).into(),
            Event::Terminate,
            exited(8),
        ] {
            assert!(sender.try_send(event).is_ok());
        }
        let ends = gather(exited(1), &mut inbox).await;
        assert_eq!((ends.leaders, ends.trees), (vec![WorkerId(1)], vec![WorkerId(7)]));
        assert!(matches!(ends.next, Some(Event::Terminate)));
        assert!(matches!(
            inbox.try_recv(),
            Ok(Event::Process(ProcessEvent::LeaderExited(WorkerId(8))))
        ));
        let ends = gather(Event::Terminate, &mut inbox).await;
        assert!(ends.is_empty() && matches!(ends.next, Some(Event::Terminate)));
    }
}
