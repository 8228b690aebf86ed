//! One request and its response, between two connections.

use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::framing::Scanner;
use super::head::{Parsed, RequestHead, ResponseHead, Returning, Stays, response};
use super::wire::{Form, Pump, Stuck, Wire, poll_scratch};
use crate::front::Unfinished;
use crate::gzip::Gzip;
use crate::policy::rejection::{Rejection, TOO_LONG, bad};

/// Most bytes that are read of a client while it waits for an upstream, or for a response after its request.
pub(super) const AHEAD: usize = 16 * 1024;

/// A request that is being sent, and its response.
pub(crate) struct Exchange<'x, S> {
    client: &'x mut Wire<S>,
    upstream: &'x mut Wire<TcpStream>,
    request: &'x RequestHead,
    /// The client's connection may be kept.
    stays: bool,
    /// Lines to add to the head of the response.
    extra: &'x [u8],
    /// Largest head of a response.
    max_head: usize,
    upload: Pump,
    sent: Sent,
    /// The client may wait for an interim answer before it sends the body.
    expects: bool,
    answer: Option<(ResponseHead, Pump)>,
    /// The client has the whole response.
    answered: bool,
    /// Buffer for the head of the response.
    out: &'x mut Vec<u8>,
}

/// How much of a request the upstream was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// A part; the rest follows.
    Partly,
    /// All of it.
    Whole,
    /// A part: the upstream takes no more. Its response counts.
    Refused,
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client has the response.
    Complete {
        /// The upstream's connection can be used again.
        reusable: bool,
        /// The client's connection can be used again.
        stays: bool,
        /// All of the request was passed on.
        whole: bool,
    },
    /// Both sides switch to another protocol.
    Switched,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The upstream did not respond. `unsent`: it cannot have processed the request. `taken`: a part of the body is
    /// gone.
    Unanswered { unsent: bool, taken: bool },
    /// The upstream did not respond in time.
    Late,
    /// The response is malformed.
    BadAnswer,
    /// The response broke off, and not because of the client.
    Broken,
    /// The client has closed the connection, or has sent something that ends it.
    Gone,
    /// The request is rejected.
    Rejected(Rejection),
}

impl<'x, S: AsyncRead + AsyncWrite + Unpin> Exchange<'x, S> {
    /// The head of the request must be in the upstream's output already. `limit`: the largest body of a request, in bytes.
    pub(crate) fn new(
        (client, upstream): (&'x mut Wire<S>, &'x mut Wire<TcpStream>),
        request: &'x RequestHead,
        (stays, extra): (bool, &'x [u8]),
        (limit, max_head): (u64, usize),
        out: &'x mut Vec<u8>,
    ) -> Exchange<'x, S> {
        Exchange {
            client,
            upstream,
            request,
            stays,
            extra,
            max_head,
            upload: Pump::new(Scanner::new(request.framing), Form::Same, limit),
            sent: Sent::Partly,
            expects: request.expects,
            answer: None,
            answered: false,
            out,
        }
    }

    /// A number that changes with every progress: of what arrives, and of what is delivered. A side that takes slowly what has arrived does not
    /// stall; with compression, much may arrive before anything is delivered.
    pub(crate) fn progress(&self) -> u64 {
        let (up, down) = self.bytes();
        // Interim responses do not give the worker more time for its response.
        let delivered = self.answer.as_ref().map_or(0, |_| self.client.sent + 1);
        up + down + self.upstream.sent + delivered + u64::from(self.answered)
    }

    /// The client has the whole response. The body of the request may still be in flight.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// The head of the response, once it has arrived.
    pub(crate) fn answer(&self) -> Option<&ResponseHead> {
        self.answer.as_ref().map(|(head, _)| head)
    }

    /// Bytes of bodies from the client, and from the upstream.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.upload.bytes,
            self.answer.as_ref().map_or(0, |(_, download)| download.bytes),
        )
    }

    /// The upstream waits for the client: it was sent everything that has arrived, and the client does not wait for `100 Continue`.
    pub(crate) fn awaits_client(&self) -> bool {
        let asked = !self.expects || self.has_taken();
        self.sent == Sent::Partly && asked && self.upstream.output.is_empty()
    }

    /// The status of a response that has begun and does not end, and why, unless the client is the cause. `ended`: the result, or `None` if
    /// nothing has moved for too long.
    pub(crate) fn unfinished(&self, ended: Option<&Result<Ended, Failed>>) -> Option<(u16, Unfinished)> {
        let status = self.answer()?.status;
        let client_takes = self.client.output.is_empty();
        match ended {
            Some(Err(Failed::Broken)) => Some((status, Unfinished::BrokeOff)),
            None if !self.answered && client_takes && !self.awaits_client() => {
                Some((status, Unfinished::Stalled))
            }
            Some(_) | None => None,
        }
    }

    /// A part of the request's body is gone, so that the request cannot be sent again.
    pub(crate) fn has_taken(&self) -> bool {
        self.upload.bytes > 0
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Ended, Failed>> {
        match self.poll_upload(context) {
            Ok(()) => {}
            // It is too late for an error response.
            Err(Failed::Rejected(_)) if self.answered => return Poll::Ready(Ok(self.ended())),
            Err(Failed::Rejected(_)) if self.answer.is_some() => return Poll::Ready(Err(Failed::Gone)),
            Err(failed) => return Poll::Ready(Err(failed)),
        }
        if self.answer.is_none()
            && let Some(ended) = ready!(self.poll_head(context))?
        {
            return Poll::Ready(Ok(ended));
        }
        if let (Some((_, download)), false) = (&mut self.answer, self.answered) {
            ready!(download.poll(self.upstream, self.client, context)).map_err(broken)?;
            self.answered = true;
        }
        // The response may end before the request does; the upstream may still read the rest. But a client that waits for `100 Continue` need
        // not send the body now.
        if self.sent == Sent::Partly && !self.may_be_kept_back() {
            ready!(self.poll_rest(context));
        }
        Poll::Ready(Ok(self.ended()))
    }

    /// The result once the client has the response. Connections are kept if the whole request went through them.
    pub(crate) fn ended(&self) -> Ended {
        let whole = self.sent == Sent::Whole;
        let clean = whole && self.upstream.input.is_empty() && self.upstream.output.is_empty();
        let head = self.answer();
        Ended::Complete {
            reusable: clean && head.is_some_and(|head| head.upstream_stays),
            stays: whole && head.is_some_and(|head| head.client_stays),
            whole,
        }
    }

    /// The client waits for `100 Continue`, and may never send the body.
    fn may_be_kept_back(&self) -> bool {
        self.expects && !self.has_taken()
    }

    /// Waits until the upstream closes the connection: then it reads no more.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Unexpected bytes make the connection unusable. No more of them are read.
        while self.upstream.input.is_empty() {
            match ready!(self.upstream.poll_fill(AHEAD, context)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => {
                    self.sent = Sent::Refused;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Passes on the request, then watches for the end of the client's connection.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), Failed> {
        if self.sent == Sent::Partly {
            match self.upload.poll(self.client, self.upstream, context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.sent = Sent::Whole,
                Poll::Ready(Err(Stuck::Source)) => return Err(Failed::Gone),
                Poll::Ready(Err(Stuck::Framing(why))) => {
                    return Err(Failed::Rejected(bad(why)));
                }
                Poll::Ready(Err(Stuck::TooLong)) => {
                    return Err(Failed::Rejected(TOO_LONG));
                }
                Poll::Ready(Err(Stuck::Sink)) => self.sent = Sent::Refused,
            }
        }
        loop {
            if self.sent == Sent::Refused && self.answer.is_some() {
                // The rest is discarded: the client may read the response only after it has sent everything.
                self.client.input.clear();
            }
            if self.client.input.len() >= AHEAD {
                return Ok(());
            }
            match self.client.poll_fill(AHEAD, context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(Failed::Gone),
            }
        }
    }

    /// Whether the client's connection may be kept after this response.
    fn stays(&self) -> Stays {
        match self.sent {
            _ if !self.stays => Stays::No,
            Sent::Whole => Stays::Yes,
            Sent::Partly if !self.may_be_kept_back() => Stays::IfUpstreamDoes,
            Sent::Partly | Sent::Refused => Stays::No,
        }
    }

    /// Reads the head of the response, and passes on interim responses.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Ended>, Failed>> {
        loop {
            if !self.client.output.is_empty() {
                // An interim response. Reading need not wait until it is sent.
                let flushed = self.client.poll_flush(context);
                if let Poll::Ready(Err(_)) = flushed {
                    return Poll::Ready(Err(Failed::Gone));
                }
            }
            match ready!(self.poll_read_head(context))? {
                Read::More => {}
                Read::Switched => return Poll::Ready(Ok(Some(Ended::Switched))),
                Read::Answer => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Reads once. What arrives with the head is passed on with it, straight from the read buffer.
    fn poll_read_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Read, Failed>> {
        let taken = self.has_taken();
        let unsent = self.sent == Sent::Refused && !taken;
        let returning = Returning {
            stays: self.stays(),
            extra: self.extra,
            max_head: self.max_head,
        };
        let Wire { io, input, .. } = &mut *self.upstream;
        let mut heads = Heads {
            client: self.client,
            request: self.request,
            returning,
            out: self.out,
            expects: &mut self.expects,
            answer: &mut self.answer,
        };
        let read = ready!(poll_scratch(io, context, |bytes, context| {
            if bytes.is_empty() {
                return Err(Failed::Unanswered { unsent, taken });
            }
            if input.is_empty() {
                let (used, read) = heads.read(bytes, context)?;
                input.extend_from_slice(&bytes[used..]);
                return Ok(read);
            }
            input.extend_from_slice(bytes);
            let mut all = input.split();
            let (used, read) = heads.read(&all, context)?;
            all.advance(used);
            *input = all;
            Ok(read)
        }));
        Poll::Ready(read.unwrap_or(Err(Failed::Unanswered { unsent, taken })))
    }
}

/// The result of reading heads.
enum Read {
    /// The head is incomplete.
    More,
    /// Both sides switch to another protocol.
    Switched,
    /// The head of the response was read.
    Answer,
}

/// Passes heads of responses to the client.
struct Heads<'h, S> {
    client: &'h mut Wire<S>,
    request: &'h RequestHead,
    returning: Returning<'h>,
    out: &'h mut Vec<u8>,
    /// [`Exchange::expects`].
    expects: &'h mut bool,
    answer: &'h mut Option<(ResponseHead, Pump)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Heads<'_, S> {
    /// Passes on what these bytes hold. Returns how many were used.
    fn read(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(usize, Read), Failed> {
        let mut used = 0;
        loop {
            match response(&bytes[used..], self.request, self.returning, self.out) {
                Parsed::Partial => return Ok((used, Read::More)),
                Parsed::Rejected(_) => return Err(Failed::BadAnswer),
                Parsed::Complete(length, head) => {
                    used += length;
                    let before = self.client.output.len();
                    // HTTP/1.0 has no interim responses (RFC 9110, 15.2).
                    if self.request.is_11 || head.status >= 200 {
                        self.client.output.extend_from_slice(self.out);
                    }
                    *self.expects &= head.status != 100;
                    if head.status == 101 {
                        return Ok((used, Read::Switched));
                    }
                    if head.status >= 200 {
                        let form = match (head.gzip, head.unchunk) {
                            (true, _) => Form::Gzip(Box::new(Gzip::new()), self.request.is_11),
                            (false, true) => Form::Bare,
                            (false, false) => Form::Same,
                        };
                        let mut download = Pump::new(Scanner::new(head.framing), form, u64::MAX);
                        used += match download.pass(&bytes[used..], self.client, context) {
                            Ok(passed) => passed,
                            Err(Stuck::Framing(_)) => {
                                // Nothing was sent yet.
                                self.client.output.truncate(before);
                                return Err(Failed::BadAnswer);
                            }
                            Err(stuck) => return Err(broken(stuck)),
                        };
                        *self.answer = Some((head, download));
                        return Ok((used, Read::Answer));
                    }
                }
            }
        }
    }
}

fn broken(stuck: Stuck) -> Failed {
    match stuck {
        Stuck::Sink => Failed::Gone,
        Stuck::Source | Stuck::Framing(_) | Stuck::TooLong => Failed::Broken,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::net::TcpListener;

    use super::*;
    use crate::h1::framing::Framing;

    const GET: RequestHead = RequestHead {
        framing: Framing::Nothing,
        keep_alive: true,
        is_11: true,
        is_head: false,
        is_idempotent: true,
        upgrades: false,
        expects: false,
        compress: false,
        gzip: false,
        sticky: None,
    };

    /// Polls once, and returns the progress if the exchange goes on.
    async fn progress<S: AsyncRead + AsyncWrite + Unpin>(exchange: &mut Exchange<'_, S>) -> Option<u64> {
        let ended = poll_fn(|context| Poll::Ready(exchange.poll(context).is_ready())).await;
        (!ended).then(|| exchange.progress())
    }

    /// What a client has not taken yet is in buffers of the proxy: nothing arrives meanwhile.
    #[tokio::test]
    async fn what_a_client_takes_is_progress() {
        const LENGTH: usize = 20_000;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (upstream, worker) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (mut worker, _) = worker.expect("it listens");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        worker
            .write_all(&[head.as_bytes(), &[b'x'; LENGTH]].concat())
            .await
            .expect("it is taken");
        let (ours, mut theirs) = duplex(1000);
        let (mut client, mut upstream) = (Wire::new(ours), Wire::new(upstream.expect("it listens")));
        // The whole response has to be here: nothing polls the exchange while this waits for the client's part of it.
        let mut come = vec![0; head.len() + LENGTH];
        while upstream.io.peek(&mut come).await.expect("it is open") < come.len() {
            tokio::task::yield_now().await;
        }
        let mut out = Vec::new();
        let mut exchange = Exchange::new(
            (&mut client, &mut upstream),
            &GET,
            (true, b""),
            (u64::MAX, 64 * 1024),
            &mut out,
        );
        let mut before = progress(&mut exchange).await.expect("it goes on");
        let mut taken = 0;
        loop {
            taken += theirs.read(&mut [0; 1000]).await.expect("more of it");
            let Some(now) = progress(&mut exchange).await else {
                break;
            };
            assert!(now > before, "after {taken} bytes");
            before = now;
        }
        assert!(taken > LENGTH - 2000, "{taken}");
    }
}
