//! One client: sends requests of its kind, reads the answers, and says exactly what happened to each.

mod connection;
mod events;
mod exchange;
mod failure;
mod http2;
mod pipeline;
mod transport;
mod websocket;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub(crate) use exchange::{Exchange, Shape};
pub(crate) use failure::Failure;
pub(crate) use transport::{Handshake, Tls};

use connection::Opener;

/// Before the next try after a connection could not be made: a refusal costs microseconds, and a
/// client that repeats it at that speed takes the CPU from the server it waits for.
const RETRY_DELAY: Duration = Duration::from_millis(1);

/// What all clients of a load have in common.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// What names the server in requests.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) expect_status: u16,
    pub(crate) timeout: Duration,
    pub(crate) leave: Leave,
    /// They speak TLS.
    pub(crate) tls: Option<Box<dyn Handshake>>,
}

/// When a connection that lives long may be ended by the server.
#[derive(Debug, Default)]
pub(crate) struct Leave {
    /// Not before it was open for so long since the reason came.
    pub(crate) holds: Duration,
    reasons: Mutex<Vec<Reason>>,
}

/// A time in which the server had a reason to end what was open, as the first half of a reload is: what is opened meanwhile may
/// still come to a worker that leaves.
#[derive(Clone, Copy, Debug)]
struct Reason {
    from: Instant,
    /// `None`: it still has.
    until: Option<Instant>,
}

/// What became of one request.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) result: Result<Answered, Failure>,
    /// Who answered, if the answer says so.
    pub(crate) worker: String,
}

/// How a request was answered well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// When it was sent.
    First,
    /// When it was sent again, because by the rules of the protocol it had not been processed.
    Again,
}

/// A client with at most one connection.
#[derive(Debug)]
pub(crate) struct Client<H> {
    opener: Opener,
    habit: H,
}

/// What a client does on its connections.
pub(crate) trait Habit: Send + 'static {
    /// Sends one request, or as many as this kind sends at once, and adds what became of each.
    fn turn(
        &mut self,
        opener: &mut Opener,
        target: &Target,
        fates: &mut Vec<Fate>,
    ) -> impl Future<Output = ()> + Send;

    /// Makes ready for the next request, outside of the measured time.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;
}

/// That of any kind of client.
#[derive(Debug)]
pub(crate) enum AnyHabit {
    Exchange(Exchange),
    Pipeline(pipeline::Pipeline),
    Events(events::Events),
    WebSocket(websocket::WebSocket),
    Http2(http2::Http2),
}

impl Leave {
    pub(crate) fn new(holds: Duration) -> Leave {
        Leave {
            holds,
            reasons: Mutex::default(),
        }
    }

    /// From now on the server may have a reason to end what is open.
    pub(crate) fn mark(&self) {
        self.reasons().push(Reason {
            from: Instant::now(),
            until: None,
        });
    }

    /// What is opened from now on has none, before the next mark.
    pub(crate) fn mark_end(&self) {
        let now = Instant::now();
        for reason in self.reasons().iter_mut() {
            reason.until.get_or_insert(now);
        }
    }

    /// A connection that was opened then ends now, and in peace: may it?
    fn given(&self, opened: Instant) -> Result<(), Failure> {
        let concerned = |reason: &Reason| reason.until.is_none_or(|until| opened <= until);
        let first = self.reasons().iter().copied().find(concerned);
        let held = first.is_some_and(|reason| reason.from.max(opened).elapsed() >= self.holds);
        let lived = opened.elapsed();
        if held {
            Ok(())
        } else {
            Err(Failure::Early { lived })
        }
    }

    fn reasons(&self) -> std::sync::MutexGuard<'_, Vec<Reason>> {
        self.reasons
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl AnyHabit {
    pub(crate) fn new(kind: crate::Kind) -> AnyHabit {
        use crate::Kind;
        match kind {
            Kind::NewConnection => AnyHabit::Exchange(Exchange::new(Shape::Fresh)),
            Kind::KeepAlive => AnyHabit::Exchange(Exchange::new(Shape::Kept)),
            Kind::Post => AnyHabit::Exchange(Exchange::new(Shape::Post)),
            Kind::SlowUpload => AnyHabit::Exchange(Exchange::new(Shape::SlowUpload)),
            Kind::Pipelined => AnyHabit::Pipeline(pipeline::Pipeline::new()),
            Kind::EventStream => AnyHabit::Events(events::Events::new()),
            Kind::WebSocket => AnyHabit::WebSocket(websocket::WebSocket::new()),
            Kind::Http2 => AnyHabit::Http2(http2::Http2::new()),
        }
    }
}

impl Habit for AnyHabit {
    async fn turn(&mut self, opener: &mut Opener, target: &Target, fates: &mut Vec<Fate>) {
        match self {
            AnyHabit::Exchange(habit) => Habit::turn(habit, opener, target, fates).await,
            AnyHabit::Pipeline(habit) => habit.turn(opener, target, fates).await,
            AnyHabit::Events(habit) => fates.push(habit.turn(opener, target).await),
            AnyHabit::WebSocket(habit) => fates.push(habit.turn(opener, target).await),
            AnyHabit::Http2(habit) => habit.turn(opener, target, fates).await,
        }
    }

    async fn settle(&mut self) {
        match self {
            AnyHabit::Exchange(habit) => habit.settle().await,
            AnyHabit::WebSocket(habit) => habit.settle().await,
            AnyHabit::Pipeline(_) | AnyHabit::Events(_) | AnyHabit::Http2(_) => {}
        }
    }
}

impl<H: Habit> Client<H> {
    pub(crate) fn new(habit: H) -> Self {
        Client {
            opener: Opener::new(),
            habit,
        }
    }

    /// Connections opened since the last call.
    pub(crate) fn take_opened(&mut self) -> u64 {
        std::mem::take(&mut self.opener.opened)
    }

    /// Sends one request, or as many as this kind sends at once, and adds what became of each. Call [`Client::settle`]
    /// before the next.
    pub(crate) async fn turn(&mut self, target: &Target, fates: &mut Vec<Fate>) {
        self.habit.turn(&mut self.opener, target, fates).await;
    }

    /// Makes ready for the next request, outside of the measured time.
    pub(crate) async fn settle(&mut self, fates: &[Fate]) {
        let unconnected = |fate: &Fate| matches!(fate.result, Err(Failure::Socket(_) | Failure::Connect(_)));
        if fates.iter().any(unconnected) {
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.habit.settle().await;
    }
}

impl Fate {
    fn of(result: Result<(), Failure>, worker: impl Into<String>) -> Fate {
        Fate {
            result: result.map(|()| Answered::First),
            worker: worker.into(),
        }
    }
}
