//! A client's HTTP/1 connection, request by request.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::exchange::{AHEAD, Ended, Exchange, Failed};
use super::framing::Framing;
use super::head::{Parsed, RequestHead, may_be_complete, rewrite};
use super::request_syntax::{field_room, parse_request};
use super::upgrade;
use super::wire::Wire;
use crate::access_log::{AccessLog, Entry, Outcome};
use crate::attempt::Attempts;
use crate::deadline::Deadline;
use crate::peer::Peer;
use crate::policy::rejection::{Rejection, SLOW_CLIENT, SLOW_HEAD, TOO_LONG, UNREADABLE};
use crate::policy::request::RequestPolicy;
use crate::policy::retry::Unanswered;
use crate::settings::Settings;
use crate::stage::ClosingStage;
use crate::trace::open::OpenSpan;
use crate::upstream::{InFlight, Upstream, connect};

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Size of a read while waiting for a head, in bytes.
pub(super) const HEAD_READ: usize = 16 * 1024;
/// The access log shows only this many bytes of a rejected head.
const LOGGED: usize = 8 * 1024;

/// Empty lines that are ignored before a request (RFC 9112, 2.2): some clients send one after a body.
const EMPTY_LINES: usize = 8;

/// How serving a connection ended.
pub(crate) enum Served<S> {
    /// The connection has ended.
    Ended,
    /// The client speaks HTTP/2; these bytes have arrived.
    Http2(Wire<S>),
}

/// Serves a client until its connection ends.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: &Peer,
    closing: watch::Receiver<ClosingStage>,
) -> Served<S> {
    let mut session = Session {
        settings: peer.front.settings(),
        client: Wire::new(stream),
        peer,
        closing,
        deadline: Deadline::new(),
        upstream_head: Vec::new(),
        client_head: Vec::new(),
        served: 0,
        entry: None,
        span: None,
        outcome: Outcome::default(),
    };
    loop {
        match session.turn().await {
            Turn::Next => session.served += 1,
            Turn::End => return Served::Ended,
            Turn::Linger => {
                session.linger().await;
                return Served::Ended;
            }
            Turn::CloseIdle => {
                session.close_idle().await;
                return Served::Ended;
            }
            Turn::Http2 => return Served::Http2(session.client),
            Turn::Switched(upstream, in_flight) => {
                let within = session.settings.tunnel_timeout;
                let bytes = upgrade::join(session.client, upstream, within).await;
                peer.front.count_bytes(bytes);
                drop(in_flight);
                return Served::Ended;
            }
        }
    }
}

pub(super) struct Session<'p, S> {
    pub(super) client: Wire<S>,
    pub(super) peer: &'p Peer,
    pub(super) settings: Arc<Settings>,
    pub(super) closing: watch::Receiver<ClosingStage>,
    pub(super) deadline: Deadline,
    /// The head for the upstream.
    pub(super) upstream_head: Vec<u8>,
    /// The head for the client.
    pub(super) client_head: Vec<u8>,
    pub(super) served: u64,
    /// The request, for the access log.
    pub(super) entry: Option<(Arc<AccessLog>, Entry)>,
    /// The request, if it is sampled.
    pub(super) span: Option<Rc<OpenSpan>>,
    pub(super) outcome: Outcome,
}

/// What follows after a request.
pub(super) enum Turn {
    /// The client may send another one.
    Next,
    /// The connection is closed at once.
    End,
    /// The connection is closed when the client has read the response, even if it is still sending.
    Linger,
    /// The idle connection is closed; the client may be about to send a request.
    CloseIdle,
    /// The client speaks HTTP/2.
    Http2,
    /// Both sides switch to another protocol.
    Switched(Wire<TcpStream>, InFlight),
}

/// The result of waiting for a head.
enum HeadRead {
    Head(usize, RequestHead),
    Rejected(Rejection),
    /// The client has closed the connection.
    Closed,
    /// The client was idle for too long, or the front closes.
    Idle,
    Http2,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Serves one request.
    async fn turn(&mut self) -> Turn {
        let head = match self.head().await {
            HeadRead::Head(length, head) => {
                self.settings = self.peer.front.settings();
                self.client.input.advance(length);
                head
            }
            HeadRead::Rejected(rejection) => {
                let turn = self.reject(rejection).await;
                self.log();
                return turn;
            }
            HeadRead::Closed => return Turn::End,
            HeadRead::Idle => return Turn::CloseIdle,
            HeadRead::Http2 => return Turn::Http2,
        };
        self.peer.front.earn_retry();
        self.outcome = Outcome::default();
        if let Some(port) = self.settings.redirect {
            let turn = self.redirect(port, &head).await;
            self.log();
            return turn;
        }
        let turn = match head.framing {
            Framing::Length(length) if length > self.settings.max_body => self.reject(TOO_LONG).await,
            _ => self.forward(&head).await,
        };
        self.log();
        turn
    }

    /// Writes the request's line to the access log, and ends its span, if it has them.
    fn log(&mut self) {
        if let Some(span) = self.span.take() {
            span.answered(self.outcome.status);
        }
        if let Some((log, entry)) = self.entry.take() {
            log.add(&entry, self.peer.ip, self.outcome);
        }
    }

    /// Reads the head of a request.
    async fn head(&mut self) -> HeadRead {
        self.client.shrink();
        let settings = Arc::clone(&self.settings);
        let (idle, within) = (settings.idle_timeout, settings.header_timeout);
        self.deadline.set(if self.served == 0 { within } else { idle });
        let mut begun = false;
        let mut seen = 0;
        let mut empty_lines = 0;
        loop {
            while empty_lines < EMPTY_LINES && self.client.input.starts_with(b"\r\n") {
                self.client.input.advance(2);
                empty_lines += 1;
                seen = 0;
            }
            let new = !self.client.input.is_empty()
                && (seen == 0 || may_be_complete(&self.client.input, seen, settings.max_head));
            if new {
                if self.served == 0
                    && empty_lines == 0
                    && PREFACE.starts_with(&self.client.input[..self.client.input.len().min(PREFACE.len())])
                {
                    if self.client.input.len() >= PREFACE.len() {
                        return HeadRead::Http2;
                    }
                } else {
                    match self.parse(&settings) {
                        Parsed::Partial => {}
                        Parsed::Complete(length, head) => return HeadRead::Head(length, head),
                        Parsed::Rejected(rejection) => return HeadRead::Rejected(rejection),
                    }
                }
            }
            if !begun && !matches!(&self.client.input[..], b"" | b"\r") {
                begun = true;
                self.deadline.set(within);
            }
            seen = self.client.input.len();
            match self.fill(!begun).await {
                Filled::Data => {}
                Filled::Closed => return HeadRead::Closed,
                Filled::Late if begun => {
                    self.record_malformed();
                    return HeadRead::Rejected(SLOW_HEAD);
                }
                Filled::Late | Filled::Dismissed => return HeadRead::Idle,
            }
        }
    }

    /// Parses what has arrived, and creates the entry for the access log when the request is complete or rejected.
    fn parse(&mut self, settings: &Settings) -> Parsed<RequestHead> {
        let mut room = field_room();
        match parse_request(&self.client.input, settings.max_head, &mut room) {
            Parsed::Complete(length, request) => {
                self.entry = self.peer.front.log().map(|log| (log, request.entry()));
                let policy = RequestPolicy::new(settings, &self.peer.client, self.peer.ip);
                let context = settings.tracing.as_ref().map(|tracing| {
                    let (context, span) = request.trace(tracing, self.peer.ip);
                    self.span = span;
                    context
                });
                match rewrite(request, length, policy, context.as_ref(), &mut self.upstream_head) {
                    Ok(head) => Parsed::Complete(length, head),
                    Err(rejection) => Parsed::Rejected(rejection),
                }
            }
            Parsed::Partial => Parsed::Partial,
            Parsed::Rejected(rejection) => {
                self.record_malformed();
                Parsed::Rejected(rejection)
            }
        }
    }

    /// Creates the entry of a request that cannot be parsed.
    fn record_malformed(&mut self) {
        let begun = &self.client.input[..self.client.input.len().min(LOGGED)];
        self.entry = self.peer.front.log().map(|log| (log, Entry::of_malformed(begun)));
    }

    /// Reads more. `idle`: no request has begun, so the connection may be closed.
    async fn fill(&mut self, idle: bool) -> Filled {
        let Session {
            client,
            deadline,
            closing,
            ..
        } = self;
        let mut closed = pin!(closing.wait_for(|stage| stage.closes_idle()));
        poll_fn(|context| {
            match client.poll_fill(HEAD_READ, context) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(Filled::Data),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Filled::Closed),
                Poll::Pending => {}
            }
            if idle && closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Filled::Dismissed);
            }
            deadline.poll(context).map(|()| Filled::Late)
        })
        .await
    }

    /// Sends the request to an upstream, or to another one if the first fails and the request may be retried.
    async fn forward(&mut self, head: &RequestHead) -> Turn {
        let front = &self.peer.front;
        let replayable = head.is_idempotent && head.framing.is_empty() && !head.upgrades;
        let mut attempts = Attempts::new(
            front,
            Arc::clone(&self.settings),
            (self.peer.ip, head.sticky),
            replayable,
            self.span.clone(),
        );
        loop {
            let in_flight = match self.upstream(&mut attempts).await {
                Some(Ok(in_flight)) => in_flight,
                Some(Err(rejection)) => return self.fail(rejection, head).await,
                None => return Turn::End,
            };
            let upstream = Arc::clone(in_flight.upstream());
            let wires = &self.peer.pools.wires;
            let (mut wire, reused) = match wires.take(upstream.id()) {
                Some(wire) => (wire, true),
                None => match connect(&upstream, attempts.within(self.settings.connect_timeout)).await {
                    Ok(stream) => (Wire::new(stream), false),
                    Err(error) => match attempts.unconnected(&upstream, &error) {
                        Ok(()) => continue,
                        Err(rejection) => return self.fail(rejection, head).await,
                    },
                },
            };
            attempts.connected();
            match self.exchange(head, (&upstream, &mut wire), &attempts).await {
                Ok(Ended::Complete {
                    reusable,
                    stays,
                    whole,
                }) => {
                    if reusable {
                        wire.shrink();
                        self.peer.pools.keep(upstream.id(), wire);
                    }
                    let is_quiet = whole && self.client.input.is_empty() && !self.peer.client.secure;
                    return match (stays, is_quiet) {
                        (true, _) => Turn::Next,
                        (false, true) => Turn::End,
                        (false, false) => Turn::Linger,
                    };
                }
                Ok(Ended::Switched) => return Turn::Switched(wire, in_flight),
                Err(Failed::Unanswered { unsent, taken }) => {
                    if reused {
                        // The other idle connections are closed as well.
                        wires.forget(upstream.id());
                    }
                    let failed = Unanswered {
                        unsent,
                        body_taken: taken,
                        reused,
                    };
                    if let Err(rejection) = attempts.unanswered(&upstream, failed) {
                        return self.fail(rejection, head).await;
                    }
                }
                Err(Failed::BadAnswer) => return self.fail(UNREADABLE, head).await,
                Err(Failed::Late) => return self.fail(attempts.late(&upstream), head).await,
                Err(Failed::Rejected(rejection)) => return self.reject(rejection).await,
                Err(Failed::Broken | Failed::Gone) => return Turn::End,
            }
        }
    }

    /// Assigns the request to an upstream. `None`: the client has gone before there was one. As during an exchange, a client that has closed its
    /// side counts as gone.
    async fn upstream(&mut self, attempts: &mut Attempts<'_>) -> Option<Result<InFlight, Rejection>> {
        let client = &mut self.client;
        let mut chosen = pin!(attempts.upstream());
        poll_fn(|context| {
            if let Poll::Ready(chosen) = chosen.as_mut().poll(context) {
                return Poll::Ready(Some(chosen));
            }
            while client.input.len() < AHEAD {
                match ready!(client.poll_fill(AHEAD, context)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(None),
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends the request to the upstream, and the response to the client.
    async fn exchange(
        &mut self,
        head: &RequestHead,
        (upstream, wire): (&Upstream, &mut Wire<TcpStream>),
        attempts: &Attempts<'_>,
    ) -> Result<Ended, Failed> {
        let front = &self.peer.front;
        let settings = Arc::clone(&self.settings);
        let stays = self.is_open();
        let cookie = self.peer.cookie_for(head.sticky, upstream);
        let extra = cookie
            .map(|cookie| format!("set-cookie: {cookie}\r\n"))
            .unwrap_or_default();
        wire.output.extend_from_slice(&self.upstream_head);
        let mut exchange = Exchange::new(
            (&mut self.client, wire),
            head,
            (stays, extra.as_bytes()),
            (settings.max_body, settings.max_head),
            &mut self.client_head,
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
                attempts.answered(upstream, head.status, began.elapsed());
                front.count_answer(head.status);
            }
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(Some(ended));
            }
            if exchange.progress() != progress {
                progress = exchange.progress();
                deadline.set(match answered {
                    // The rest of the request has as much time as it had before the response.
                    _ if exchange.is_answered() => settings.response_timeout.min(settings.stream_timeout),
                    Some(_) => settings.stream_timeout,
                    None => attempts.within(settings.response_timeout),
                });
            }
            deadline.poll(context).map(|()| None)
        })
        .await;
        if let Some((status, why)) = exchange.unfinished(ended.as_ref()) {
            front.unfinished(upstream, status, why);
        }
        front.count_bytes(exchange.bytes());
        self.outcome = Outcome {
            status: answered.unwrap_or(0),
            bytes: exchange.bytes().1,
            upstream: Some(upstream.key()),
        };
        match ended {
            Some(Ok(Ended::Switched)) => {
                self.outcome.status = 101;
                attempts.answered(upstream, 101, began.elapsed());
                front.count_answer(101);
                Ok(Ended::Switched)
            }
            Some(Err(Failed::BadAnswer)) => {
                attempts.bad_answer(upstream, began.elapsed());
                Err(Failed::BadAnswer)
            }
            Some(ended) => ended,
            None if exchange.is_answered() => Ok(exchange.ended()),
            None if answered.is_some() => Err(Failed::Broken),
            None if exchange.awaits_client() => Err(Failed::Rejected(SLOW_CLIENT)),
            None => Err(Failed::Late),
        }
    }

    /// The front does not close: clients stay.
    fn is_open(&self) -> bool {
        *self.closing.borrow() == ClosingStage::Open
    }

    /// The connection may be kept after a response of the proxy itself.
    pub(super) fn stays_after(&self, head: &RequestHead) -> bool {
        head.keep_alive && head.is_11 && head.framing.is_empty() && self.is_open()
    }

    /// Rejects a request that no worker has answered. The connection may stay.
    async fn fail(&mut self, rejection: Rejection, head: &RequestHead) -> Turn {
        let stays = self.stays_after(head);
        self.answer(rejection, "", stays, head.is_head).await;
        if stays { Turn::Next } else { Turn::Linger }
    }
}

enum Filled {
    Data,
    Closed,
    Late,
    /// The front closes.
    Dismissed,
}
