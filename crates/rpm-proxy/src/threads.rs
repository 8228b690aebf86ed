//! The threads of the proxy. Each serves all fronts.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tracing::{error, warn};

use crate::accept::accept;
use crate::front::Front;
use crate::stage::ClosingStage;
use crate::tunnel;

/// Most commands that wait for a thread: as many as fronts that open and close at once.
const COMMANDS: usize = 1024;
/// Size of a thread's stack, in bytes. Large values are on the heap.
const STACK: usize = 512 * 1024;

enum FrontCommand {
    Open(u32, TcpListener, Arc<Front>),
    Stage(u32, ClosingStage),
    /// Dropped when all commands before it are carried out.
    Sync(mpsc::Sender<()>),
    Close(u32),
}

/// Turns after which all tasks of a thread have seen a new stage.
const TURNS: usize = 4;

/// The threads of the proxy. They end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    threads: Vec<mpsc::Sender<FrontCommand>>,
}

impl Proxy {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// A thread or a descriptor cannot be created.
    pub fn start(count: usize) -> io::Result<Proxy> {
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new()
                .name(format!("rpm-proxy-{number}"))
                .stack_size(STACK)
                .spawn(move || LocalSet::new().block_on(&runtime, run(inbox, number == 0)))?;
            threads.push(commands);
        }
        Ok(Proxy { threads })
    }

    /// The number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Serves a front on listening sockets, one for each thread, so that the kernel distributes the clients. With one socket, the first thread
    /// of an idle system would take them all. `id` names the front for [`Proxy::close`].
    ///
    /// # Errors
    /// A thread takes no commands.
    pub fn open(&self, id: u32, listeners: Vec<OwnedFd>, front: &Arc<Front>) -> io::Result<()> {
        for (commands, listener) in self.threads.iter().zip(listeners) {
            let listener = TcpListener::from(listener);
            listener.set_nonblocking(true)?;
            tunnel::keep_alive(&listener)?;
            if commands
                .try_send(FrontCommand::Open(id, listener, Arc::clone(front)))
                .is_err()
            {
                return Err(io::Error::other("a proxy thread takes no commands"));
            }
        }
        Ok(())
    }

    /// Asks the front's clients to close their connections after the next response, or lets them stay again.
    pub fn leave(&self, id: u32, leaves: bool) {
        let stage = if leaves {
            ClosingStage::AskingToClose
        } else {
            ClosingStage::Open
        };
        self.send(id, || FrontCommand::Stage(id, stage));
    }

    /// Closes HTTP/1 connections after their next response, until [`Proxy::leave`] reverts it.
    pub fn thin(&self, id: u32) {
        self.send(id, || {
            FrontCommand::Stage(id, ClosingStage::ClosingWithNextResponse)
        });
    }

    /// Stops accepting, and closes connections after their next response, until [`Proxy::leave`] reverts it.
    pub fn part(&self, id: u32) {
        self.send(id, || FrontCommand::Stage(id, ClosingStage::HoldingNew));
    }

    /// As [`Proxy::part`], and closes idle connections.
    pub fn clear(&self, id: u32) {
        self.send(id, || FrontCommand::Stage(id, ClosingStage::ClosingIdle));
    }

    /// Closes the front: no client is accepted, and requests in flight are finished.
    pub fn close(&self, id: u32) {
        self.send(id, || FrontCommand::Close(id));
    }

    /// Ends when every thread has carried out the commands before this one: clients that are accepted later see the new stage, and those that
    /// were accepted before are counted ([`Front::figures`]).
    #[must_use]
    pub fn reached(&self) -> mpsc::Receiver<()> {
        let (reached, end) = mpsc::channel(1);
        self.send(0, || FrontCommand::Sync(reached.clone()));
        end
    }

    fn send(&self, id: u32, command: impl Fn() -> FrontCommand) {
        for commands in &self.threads {
            if commands.try_send(command()).is_err() {
                warn!(id, "a proxy thread takes no commands");
            }
        }
    }
}

async fn run(mut inbox: mpsc::Receiver<FrontCommand>, first: bool) {
    let mut open: HashMap<u32, watch::Sender<ClosingStage>> = HashMap::new();
    while let Some(command) = inbox.recv().await {
        match command {
            FrontCommand::Open(id, listener, front) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (closing, stage) = watch::channel(ClosingStage::Open);
                    open.insert(id, closing);
                    tokio::task::spawn_local(accept(listener, front, first, stage));
                }
                Err(error) => error!(id, %error, "a proxy thread cannot serve a listener"),
            },
            FrontCommand::Stage(id, stage) => {
                if let Some(closing) = open.get(&id) {
                    closing.send_replace(stage);
                }
            }
            FrontCommand::Sync(reached) => {
                // The task that accepts may take one more; the task that serves that one counts it.
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                drop(reached);
            }
            FrontCommand::Close(id) => {
                if let Some(closing) = open.remove(&id) {
                    closing.send_replace(ClosingStage::Closed);
                }
            }
        }
    }
}
