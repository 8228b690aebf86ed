//! Limits of memory: which instances are replaced because their process has more than it may, and how.
//!
//! [`MemoryLimits`] stands beside the core, as the [`QueueSampler`](crate::QueueSampler) does: the shell samples and gives the core the command that
//! follows.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{AppId, InstanceId, Tick};

/// An instance that was replaced for its memory is left alone for this long: its next worker may need more while it starts.
pub const GRACE: Duration = Duration::from_secs(10);

/// A sample of an instance with a limit of memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its app. An instance of another app may have the same number later, and is another instance.
    pub app: AppId,
    /// The instance.
    pub instance: InstanceId,
    /// What its processes use.
    pub used: u64,
    /// What they may use.
    pub limit: u64,
}

impl Sample {
    /// True if it uses more than it may.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.used > self.limit
    }
}

/// What counts for an instance that uses too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Its app is being reloaded.
    pub reloads: bool,
    /// A second worker can serve beside it.
    pub shares: bool,
}

/// What is done for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Remedy {
    /// Nothing, for now.
    Leave,
    /// [`Command::Replace`](crate::protocol::Command::Replace): its next worker starts beside it.
    Replace,
    /// [`Command::Restart`](crate::protocol::Command::Restart): a worker beside it could not serve.
    Restart,
}

/// The limits of all instances, as far as they are remembered.
#[derive(Debug, Default)]
pub struct MemoryLimits {
    /// Instances that were replaced, and until when they are left alone.
    spared: BTreeMap<(AppId, InstanceId), Tick>,
}

impl MemoryLimits {
    /// Decides what is done for an instance. The caller does it.
    pub fn handle_sample(&mut self, sample: &Sample, circumstances: Circumstances, now: Tick) -> Remedy {
        let instance = (sample.app, sample.instance);
        let is_spared = self.spared.get(&instance).is_some_and(|until| *until > now);
        // What a reload replaces anyway takes its turn.
        if !sample.is_over() || is_spared || circumstances.reloads {
            return Remedy::Leave;
        }
        self.spared.retain(|_, until| *until > now);
        self.spared.insert(instance, now + GRACE);
        match circumstances.shares {
            true => Remedy::Replace,
            false => Remedy::Restart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Circumstances = Circumstances {
        reloads: false,
        shares: false,
    };

    fn at(secs: u64) -> Tick {
        Tick(Duration::from_secs(secs))
    }

    fn sample(app: u32, used: u64) -> Sample {
        Sample {
            app: AppId(app),
            instance: InstanceId(0),
            used,
            limit: 100,
        }
    }

    #[test]
    fn what_is_done_follows_from_use_and_circumstances() {
        let cases = [
            (99, false, true, Remedy::Leave),
            (100, false, true, Remedy::Leave),
            (101, false, true, Remedy::Replace),
            (101, false, false, Remedy::Restart),
            (101, true, true, Remedy::Leave),
            (101, true, false, Remedy::Leave),
            (u64::MAX, false, true, Remedy::Replace),
        ];
        for (used, reloads, shares, wanted) in cases {
            let circumstances = Circumstances { reloads, shares };
            let remedy = MemoryLimits::default().handle_sample(&sample(1, used), circumstances, at(0));
            assert_eq!(remedy, wanted, "{used} {circumstances:?}");
        }
    }

    #[test]
    fn an_instance_is_left_alone_for_a_while_after_it_was_replaced() {
        let mut limits = MemoryLimits::default();
        let mut handle = |secs, circumstances| limits.handle_sample(&sample(1, 200), circumstances, at(secs));
        let reloads = Circumstances {
            reloads: true,
            ..ALONE
        };
        assert_eq!(handle(0, reloads), Remedy::Leave);
        assert_eq!(handle(1, ALONE), Remedy::Restart, "nothing was done before");
        assert_eq!(handle(10, ALONE), Remedy::Leave);
        assert_eq!(handle(11, ALONE), Remedy::Restart, "the grace is over");
    }

    #[test]
    fn another_instance_of_the_same_number_is_not_spared_and_old_ones_are_forgotten() {
        let mut limits = MemoryLimits::default();
        assert_eq!(
            limits.handle_sample(&sample(1, 200), ALONE, at(0)),
            Remedy::Restart
        );
        assert_eq!(
            limits.handle_sample(&sample(2, 200), ALONE, at(1)),
            Remedy::Restart
        );
        assert_eq!(limits.spared.len(), 2);
        assert_eq!(
            limits.handle_sample(&sample(3, 200), ALONE, at(20)),
            Remedy::Restart
        );
        assert_eq!(limits.spared.len(), 1);
    }
}
