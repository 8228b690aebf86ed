//! A client's connection, request by request.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::exchange::{Ended, Exchange, Failed};
use super::framing::Framing;
use super::head::{Parsed, Passing, RequestHead, may_be_complete, request};
use super::refusal::{ENDED, Refusal, SLOW, SLOW_CLIENT, UNCONNECTED, UNREADABLE};
use super::wire::Wire;
use crate::access_log::{AccessLog, Entry, Outcome};
use crate::attempt::{Attempts, Unavailable};
use crate::deadline::Deadline;
use crate::front::Settings;
use crate::network;
use crate::serve::Peer;
use crate::threads::Stage;
use crate::tunnel;
use crate::upstream::{InFlight, Upstream};

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Read at a time while a head is waited for.
pub(super) const HEAD_READ: usize = 16 * 1024;
/// Of a head that is refused the access log has what is in so many bytes.
const LOGGED: usize = 8 * 1024;
/// What no connection lives for.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// What becomes of a connection.
pub(crate) enum Left<S> {
    /// It has ended.
    Ended,
    /// It is one of HTTP/2, of which this has come.
    Http2(Wire<S>),
}

/// Serves a client until it goes, or is to go.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: &Peer,
    closing: watch::Receiver<Stage>,
) -> Left<S> {
    let mut session = Session {
        settings: peer.front.settings(),
        client: Wire::new(stream),
        peer,
        closing,
        deadline: Deadline::new(),
        upward: Vec::new(),
        downward: Vec::new(),
        served: 0,
        entry: None,
        outcome: Outcome {
            status: 0,
            bytes: 0,
            upstream: None,
        },
    };
    loop {
        match session.turn().await {
            Turn::Next => session.served += 1,
            Turn::End => return Left::Ended,
            Turn::Linger => {
                session.linger().await;
                return Left::Ended;
            }
            Turn::Part => {
                session.part().await;
                return Left::Ended;
            }
            Turn::Http2 => return Left::Http2(session.client),
            Turn::Switched(upstream, in_flight) => {
                let within = session.settings.tunnel_timeout;
                let bytes = join(session.client, upstream, within).await;
                peer.front.count_bytes(bytes);
                drop(in_flight);
                return Left::Ended;
            }
        }
    }
}

pub(super) struct Session<'p, S> {
    pub(super) client: Wire<S>,
    pub(super) peer: &'p Peer,
    pub(super) settings: Arc<Settings>,
    pub(super) closing: watch::Receiver<Stage>,
    pub(super) deadline: Deadline,
    /// The head that an upstream is sent.
    pub(super) upward: Vec<u8>,
    /// The head that the client is sent.
    pub(super) downward: Vec<u8>,
    pub(super) served: u64,
    /// What the log is to say.
    pub(super) entry: Option<(Arc<AccessLog>, Entry)>,
    pub(super) outcome: Outcome,
}

/// How a request has ended.
pub(super) enum Turn {
    /// The client may send another one.
    Next,
    /// Nothing more is to be said.
    End,
    /// The client is to read what it was sent, whatever it is sending.
    Linger,
    /// It was idle for too long, or has to go; it may be about to send something.
    Part,
    /// It speaks HTTP/2.
    Http2,
    /// Both sides have left HTTP.
    Switched(Wire<TcpStream>, InFlight),
}

/// What has come of a head.
enum Come {
    Head(usize, RequestHead),
    Refused(Refusal),
    /// The client has ended.
    Nothing,
    /// It was silent for too long before a request, or has to go.
    Idle,
    Http2,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// One request.
    async fn turn(&mut self) -> Turn {
        let head = match self.head().await {
            Come::Head(length, head) => {
                self.settings = self.peer.front.settings();
                let come = &self.client.come[..length];
                self.entry = self.peer.front.log().map(|log| (log, Entry::of_head(come)));
                self.client.come.advance(length);
                head
            }
            Come::Refused(refusal) => {
                let begun = &self.client.come[..self.client.come.len().min(LOGGED)];
                self.entry = self.peer.front.log().map(|log| (log, Entry::of_head(begun)));
                let turn = self.refuse(refusal).await;
                self.log();
                return turn;
            }
            Come::Nothing => return Turn::End,
            Come::Idle => return Turn::Part,
            Come::Http2 => return Turn::Http2,
        };
        self.peer.front.earn_retry();
        if let Some(port) = self.settings.redirect {
            let turn = self.redirect(port, &head).await;
            self.log();
            return turn;
        }
        let turn = self.forward(&head).await;
        self.log();
        turn
    }

    /// Writes the request's line to the access log, if it has one.
    fn log(&mut self) {
        if let Some((log, entry)) = self.entry.take() {
            log.add(&entry, self.peer.ip, self.outcome);
        }
    }

    /// Waits for the head of a request.
    async fn head(&mut self) -> Come {
        self.client.shrink();
        let settings = Arc::clone(&self.settings);
        let (idle, within) = (settings.idle_timeout, settings.header_timeout);
        self.deadline.set(if self.served == 0 { within } else { idle });
        let mut begun = false;
        let mut seen = 0;
        loop {
            let new = !self.client.come.is_empty()
                && (seen == 0 || may_be_complete(&self.client.come, seen, settings.max_head));
            if new {
                if self.served == 0
                    && PREFACE.starts_with(&self.client.come[..self.client.come.len().min(PREFACE.len())])
                {
                    if self.client.come.len() >= PREFACE.len() {
                        return Come::Http2;
                    }
                } else {
                    let passing = Passing {
                        client: &self.peer.client,
                        trusted: network::any(&settings.trust_forwarded, self.peer.ip),
                        underscores: settings.allow_underscores,
                        compress: settings.compress,
                        cookie: settings.cookie.as_deref(),
                        max_head: settings.max_head,
                    };
                    match request(&self.client.come, passing, &mut self.upward) {
                        Parsed::Partial => {}
                        Parsed::Complete(length, head) => return Come::Head(length, head),
                        Parsed::Refused(refusal) => return Come::Refused(refusal),
                    }
                }
            }
            if !begun && !self.client.come.is_empty() {
                begun = true;
                self.deadline.set(within);
            }
            seen = self.client.come.len();
            match self.fill(!begun).await {
                Filled::Some => {}
                Filled::Nothing => return Come::Nothing,
                Filled::Late if begun => {
                    return Come::Refused(Refusal {
                        status: 408,
                        why: "the head of the request has not come in time",
                    });
                }
                Filled::Late | Filled::Dismissed => return Come::Idle,
            }
        }
    }

    /// Reads more. `idle`: nothing is under way, so that it can end when the listener is closed.
    async fn fill(&mut self, idle: bool) -> Filled {
        let Session {
            client,
            deadline,
            closing,
            ..
        } = self;
        let mut closed = pin!(closing.wait_for(|stage| stage.dismisses()));
        poll_fn(|context| {
            match client.poll_fill(HEAD_READ, context) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(Filled::Some),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Filled::Nothing),
                Poll::Pending => {}
            }
            if idle && closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Filled::Dismissed);
            }
            deadline.poll(context).map(|()| Filled::Late)
        })
        .await
    }

    /// Finds an upstream for the request and has it answered; another one if that is right.
    async fn forward(&mut self, head: &RequestHead) -> Turn {
        let front = &self.peer.front;
        let replayable = head.is_idempotent && head.framing == Framing::Nothing && !head.upgrades;
        // An idle connection that its worker has ended is found once for free: a request that ends workers must not reach them all.
        let mut stale = false;
        let mut attempts = Attempts::new(front, Arc::clone(&self.settings), self.peer.ip, head.sticky);
        loop {
            let in_flight = match attempts.upstream().await {
                Ok(in_flight) => in_flight,
                Err(unavailable) => return self.unavailable(unavailable, head).await,
            };
            let upstream = Arc::clone(in_flight.upstream());
            let (mut wire, reused) = match self.peer.pools.wires.take(upstream.id()) {
                Some(wire) => (wire, true),
                None => match connect(&upstream, attempts.within(self.settings.connect_timeout)).await {
                    Some(wire) => (wire, false),
                    None if attempts.again(&upstream) => continue,
                    None => return self.fail_for(&upstream, UNCONNECTED, head).await,
                },
            };
            match self.exchange(head, (&upstream, &mut wire), &attempts).await {
                Ok((
                    Ended::Complete {
                        reusable,
                        stays,
                        whole,
                    },
                    _,
                )) => {
                    if reusable {
                        wire.shrink();
                        self.peer.pools.keep(upstream.id(), wire);
                    }
                    return match (
                        stays,
                        whole && self.client.come.is_empty() && !self.peer.client.secure,
                    ) {
                        (true, _) => Turn::Next,
                        (false, true) => Turn::End,
                        (false, false) => Turn::Linger,
                    };
                }
                Ok((Ended::Switched, _)) => return Turn::Switched(wire, in_flight),
                Err((Failed::Unanswered { unsent }, taken)) => {
                    let again = !taken && (unsent || replayable);
                    if again && reused && !stale {
                        stale = true;
                        // The worker had ended it meanwhile, and the others that were idle, too.
                        self.peer.pools.wires.forget(upstream.id());
                        continue;
                    }
                    if again && attempts.again(&upstream) {
                        continue;
                    }
                    if !again {
                        upstream.failed(front.now_ms());
                    }
                    return self.fail_for(&upstream, ENDED, head).await;
                }
                Err((Failed::BadAnswer, _)) => {
                    return self.fail_for(&upstream, (UNREADABLE, UNREADABLE.why), head).await;
                }
                Err((Failed::Late, _)) => {
                    upstream.failed(front.now_ms());
                    return self.fail_for(&upstream, (SLOW, SLOW.why), head).await;
                }
                Err((Failed::Refused(refusal), _)) => return self.refuse(refusal).await,
                Err((Failed::Broken | Failed::Gone, _)) => return Turn::End,
            }
        }
    }

    /// Sends the request, and the answer. With a failure: whether something of the body was taken.
    async fn exchange(
        &mut self,
        head: &RequestHead,
        (upstream, wire): (&Upstream, &mut Wire<TcpStream>),
        attempts: &Attempts<'_>,
    ) -> Result<(Ended, bool), (Failed, bool)> {
        let front = &self.peer.front;
        let settings = Arc::clone(&self.settings);
        let stays = *self.closing.borrow() == Stage::Open;
        let cookie = self.peer.cookie_for(head.sticky, upstream);
        let extra = cookie
            .map(|cookie| format!("set-cookie: {cookie}\r\n"))
            .unwrap_or_default();
        wire.going.extend_from_slice(&self.upward);
        let mut exchange = Exchange::new(
            (&mut self.client, wire),
            head,
            (stays, extra.as_bytes()),
            (settings.max_body, settings.max_head),
            &mut self.downward,
        );
        let deadline = &mut self.deadline;
        deadline.set(attempts.within(settings.response_timeout));
        let began = Instant::now();
        let (mut answered, mut progress) = (None, 0);
        let ended = poll_fn(|context| {
            let polled = exchange.poll(context);
            if answered.is_none()
                && let Some(head) = exchange.answer()
            {
                answered = Some(head.status);
                let after = micros_since(began);
                upstream.answered(head.status, after, front.now_ms());
                front.count_time(after);
                front.count_answer(head.status);
            }
            if let Poll::Ready(ended) = polled {
                if let Err(Failed::BadAnswer) = ended {
                    // It was not silent.
                    upstream.answered(UNREADABLE.status, micros_since(began), front.now_ms());
                }
                return Poll::Ready(Some(ended));
            }
            if exchange.progress() != progress {
                progress = exchange.progress();
                deadline.set(match answered {
                    // What is left of the request has the time that it would have without an answer.
                    _ if exchange.is_answered() => settings.response_timeout.min(settings.stream_timeout),
                    Some(_) => settings.stream_timeout,
                    None => attempts.within(settings.response_timeout),
                });
            }
            deadline.poll(context).map(|()| None)
        })
        .await;
        let (taken, awaits_client) = (exchange.has_taken(), exchange.awaits_client());
        front.count_bytes(exchange.bytes());
        self.outcome = Outcome {
            status: answered.unwrap_or(0),
            bytes: exchange.bytes().1,
            upstream: Some(upstream.key()),
        };
        match ended {
            Some(Ok(ended)) => {
                if matches!(ended, Ended::Switched) {
                    self.outcome.status = 101;
                    front.count_answer(101);
                }
                Ok((ended, taken))
            }
            Some(Err(failed)) => Err((failed, taken)),
            None if exchange.is_answered() => Ok((exchange.ended(), taken)),
            None if answered.is_some() => Err((Failed::Broken, taken)),
            None if awaits_client => Err((Failed::Refused(SLOW_CLIENT), taken)),
            None => Err((Failed::Late, taken)),
        }
    }

    async fn unavailable(&mut self, unavailable: Unavailable, head: &RequestHead) -> Turn {
        self.peer.front.count_unavailable();
        let why = unavailable.text();
        self.fail(Refusal { status: 503, why }, head).await
    }

    /// The client's request is not answered by the worker that had it: with what the client is told, what the log is.
    async fn fail_for(
        &mut self,
        upstream: &Upstream,
        (refusal, why): (Refusal, &str),
        head: &RequestHead,
    ) -> Turn {
        upstream.blame(refusal.status, why, self.peer.front.now_ms());
        self.fail(refusal, head).await
    }

    /// The client's request is not answered by a worker.
    async fn fail(&mut self, refusal: Refusal, head: &RequestHead) -> Turn {
        let stays =
            head.keep_alive && head.framing == Framing::Nothing && *self.closing.borrow() == Stage::Open;
        let retry = if refusal.status == 503 {
            "retry-after: 1\r\n"
        } else {
            ""
        };
        self.answer(refusal, retry, stays && head.is_11, head.is_head)
            .await;
        if stays && head.is_11 {
            Turn::Next
        } else {
            Turn::Linger
        }
    }
}

enum Filled {
    Some,
    Nothing,
    Late,
    /// The client has to go.
    Dismissed,
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn connect(upstream: &Upstream, within: Duration) -> Option<Wire<TcpStream>> {
    let connected = timeout(within, upstream.addr().connect()).await;
    let stream = connected.ok()?.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(Wire::new(stream))
}

/// Bytes go to and fro until one side has ended, or both are silent for too long; says how many.
async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Wire<S>,
    mut upstream: Wire<TcpStream>,
    within: Duration,
) -> (u64, u64) {
    client.going.extend_from_slice(&upstream.come);
    upstream.going.extend_from_slice(&client.come);
    let first = async {
        client.io.write_all_buf(&mut client.going).await?;
        client.io.flush().await?;
        upstream.io.write_all_buf(&mut upstream.going).await
    };
    let first = timeout(if within.is_zero() { FOR_EVER } else { within }, first);
    match first.await {
        Ok(Ok(())) => tunnel::join(&mut client.io, &mut upstream.io, within).await,
        Ok(Err(_)) | Err(_) => (0, 0),
    }
}
