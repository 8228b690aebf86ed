//! The processes of workers: how they are started, checked, asked to end, and what becomes of them.

pub(crate) mod adopt;
pub(crate) mod agent;
pub(crate) mod ending;
pub(crate) mod health;
pub(crate) mod launch;
pub(crate) mod pages;
mod program;
pub(crate) mod progress;

use rpm_core::WorkerId;

use crate::node::agents::AgentEvent;
use crate::node::channel::ChannelEvent;
use crate::sockets::calls::Called;

/// What has become of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEvent {
    /// A worker's leader has ended; it is not yet waited for.
    LeaderExited(WorkerId),
    /// The rest of a worker's tree has ended.
    TreeGone(WorkerId),
}

/// An event of the daemon, which those of a worker become.
pub(crate) trait Reports:
    From<ProcessEvent> + From<ChannelEvent> + From<Called> + From<AgentEvent> + Send + 'static
{
}

impl<E> Reports for E where
    E: From<ProcessEvent> + From<ChannelEvent> + From<Called> + From<AgentEvent> + Send + 'static
{
}
