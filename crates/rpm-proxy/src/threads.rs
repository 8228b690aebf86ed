//! The threads that serve all fronts.

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
use crate::stage::Stage;
use crate::tunnel;

/// Orders that a thread has not taken yet. There are as many as fronts that come and go at the same moment.
const ORDERS: usize = 1024;
/// Of a thread's stack, in bytes: what is large is on the heap.
const STACK: usize = 512 * 1024;

enum Order {
    Open(u32, TcpListener, Arc<Front>),
    Tell(u32, Stage),
    /// What was told before is done when this is dropped.
    Reach(mpsc::Sender<()>),
    Close(u32),
}

/// Turns of a thread's tasks until all of them have seen what was told.
const TURNS: usize = 4;

/// All threads. They end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    threads: Vec<mpsc::Sender<Order>>,
}

impl Proxy {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// No thread or no descriptor is to be had.
    pub fn start(count: usize) -> io::Result<Proxy> {
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (orders, inbox) = mpsc::channel(ORDERS);
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new()
                .name(format!("rpm-proxy-{number}"))
                .stack_size(STACK)
                .spawn(move || LocalSet::new().block_on(&runtime, obey(inbox, number == 0)))?;
            threads.push(orders);
        }
        Ok(Proxy { threads })
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Serves a front on sockets that listen, one for each thread, so that the kernel spreads the clients over them: of one socket an idle
    /// system's first thread would take all. `id` names the front for [`Proxy::close`].
    ///
    /// # Errors
    /// A thread does not take orders.
    pub fn open(&self, id: u32, listeners: Vec<OwnedFd>, front: &Arc<Front>) -> io::Result<()> {
        for (orders, listener) in self.threads.iter().zip(listeners) {
            let own = TcpListener::from(listener);
            own.set_nonblocking(true)?;
            tunnel::keep_alive(&own)?;
            if orders.try_send(Order::Open(id, own, Arc::clone(front))).is_err() {
                return Err(io::Error::other("a thread of the proxy does not take orders"));
            }
        }
        Ok(())
    }

    /// Has the front's clients go elsewhere when they have had the next answer, or stay again.
    pub fn leave(&self, id: u32, leaves: bool) {
        let stage = if leaves { Stage::Leaving } else { Stage::Open };
        self.order(id, || Order::Tell(id, stage));
    }

    /// Has clients of HTTP/1 go when they have had the next answer, until [`Proxy::leave`] says otherwise.
    pub fn thin(&self, id: u32) {
        self.order(id, || Order::Tell(id, Stage::Thinning));
    }

    /// Accepts no more, and has the clients go when they have had the next answer, until [`Proxy::leave`] says otherwise.
    pub fn part(&self, id: u32) {
        self.order(id, || Order::Tell(id, Stage::Parting));
    }

    /// The same, and ends the connections of clients that are idle.
    pub fn clear(&self, id: u32) {
        self.order(id, || Order::Tell(id, Stage::Clearing));
    }

    /// Accepts no more for the front; clients finish what they have begun.
    pub fn close(&self, id: u32) {
        self.order(id, || Order::Close(id));
    }

    /// Ends when every thread has done what it was told before: who is accepted afterwards is accepted in the stage that was told, and who was
    /// accepted before is counted ([`Front::figures`]).
    #[must_use]
    pub fn reached(&self) -> mpsc::Receiver<()> {
        let (reached, end) = mpsc::channel(1);
        self.order(0, || Order::Reach(reached.clone()));
        end
    }

    fn order(&self, id: u32, order: impl Fn() -> Order) {
        for orders in &self.threads {
            if orders.try_send(order()).is_err() {
                warn!(id, "a thread of the proxy does not take orders");
            }
        }
    }
}

async fn obey(mut inbox: mpsc::Receiver<Order>, first: bool) {
    let mut open: HashMap<u32, watch::Sender<Stage>> = HashMap::new();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Open(id, listener, front) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (closing, told) = watch::channel(Stage::Open);
                    open.insert(id, closing);
                    tokio::task::spawn_local(accept(listener, front, first, told));
                }
                Err(error) => error!(id, %error, "a thread of the proxy cannot serve a listener"),
            },
            Order::Tell(id, stage) => {
                if let Some(told) = open.get(&id) {
                    told.send_replace(stage);
                }
            }
            Order::Reach(reached) => {
                // The task that accepts may take one more; the task that serves that one counts it.
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                drop(reached);
            }
            Order::Close(id) => {
                if let Some(told) = open.remove(&id) {
                    told.send_replace(Stage::Closed);
                }
            }
        }
    }
}
