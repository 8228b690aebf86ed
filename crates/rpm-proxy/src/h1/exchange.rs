//! One request and its answer, between two connections.

use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::framing::Scanner;
use super::head::{Parsed, RequestHead, ResponseHead, Returning, Stays, response};
use super::wire::{Form, Pump, Stuck, Wire, poll_scratch};
use crate::gzip::Gzip;
use crate::policy::rejection::{Rejection, TOO_LONG, bad};

/// What a client may send ahead while it waits for an answer: further requests.
const AHEAD: usize = 16 * 1024;

/// A request that is being sent, and its answer.
pub(crate) struct Exchange<'x, S> {
    client: &'x mut Wire<S>,
    upstream: &'x mut Wire<TcpStream>,
    request: &'x RequestHead,
    /// The client's connection may be kept.
    stays: bool,
    /// Lines for the head of the answer.
    extra: &'x [u8],
    /// Longest body of a request.
    limit: u64,
    /// Largest head of an answer.
    max_head: usize,
    upload: Pump,
    sent: Sent,
    /// The client may wait for an interim answer before it sends the body.
    expects: bool,
    answer: Option<(ResponseHead, Pump)>,
    /// All of the answer is with the client.
    answered: bool,
    /// Where the head of an answer is written.
    out: &'x mut Vec<u8>,
}

/// What has become of a request on its way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It is being sent.
    Going,
    /// All of it was.
    Whole,
    /// The upstream takes no more of it; what it has answered counts.
    Refused,
}

/// How it came to an end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The answer is with the client.
    Complete {
        /// The upstream's connection can be used again.
        reusable: bool,
        /// And the client's.
        stays: bool,
        /// All of the request was read, and sent on.
        whole: bool,
    },
    /// Both sides leave HTTP.
    Switched,
}

/// Why it came to none.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The upstream has not answered. `unsent`: it cannot have processed the request. `taken`: a part of the body is
    /// gone.
    Unanswered { unsent: bool, taken: bool },
    /// Nor has it in the time that it has.
    Late,
    /// It has answered, and nobody can read it.
    BadAnswer,
    /// The answer has broken off.
    Broken,
    /// The client has gone.
    Gone,
    /// What the client sends is not accepted.
    Rejected(Rejection),
}

impl<'x, S: AsyncRead + AsyncWrite + Unpin> Exchange<'x, S> {
    /// The head of the request is what the upstream is to be sent already.
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
            limit,
            max_head,
            upload: Pump::new(Scanner::new(request.framing), Form::Same),
            sent: Sent::Going,
            expects: request.expects,
            answer: None,
            answered: false,
            out,
        }
    }

    /// What it has come to: with each step that makes progress this is another number.
    pub(crate) fn progress(&self) -> u64 {
        let answered = self.answer.as_ref();
        self.upload.bytes + answered.map_or(0, |(_, download)| download.bytes + 1) + u64::from(self.answered)
    }

    /// All of the answer is with the client; only the body of the request may be under way still.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// The head of the answer, when there is one.
    pub(crate) fn answer(&self) -> Option<&ResponseHead> {
        self.answer.as_ref().map(|(head, _)| head)
    }

    /// Of bodies: what has come from the client, and from the upstream.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.upload.bytes,
            self.answer.as_ref().map_or(0, |(_, download)| download.bytes),
        )
    }

    /// It is the client that the upstream waits for: it has been sent all that has come, and has not kept the client waiting.
    pub(crate) fn awaits_client(&self) -> bool {
        let asked = !self.expects || self.has_taken();
        self.sent == Sent::Going && asked && self.upstream.going.is_empty()
    }

    /// The body of the request was begun to be read: it is not there for another attempt.
    pub(crate) fn has_taken(&self) -> bool {
        self.upload.bytes > 0
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Ended, Failed>> {
        match self.poll_upload(context) {
            Ok(()) => {}
            // What is wrong with the body cannot be said any more.
            Err(Failed::Rejected(_)) if self.answered => return Poll::Ready(Ok(self.ended())),
            Err(Failed::Rejected(_)) if self.answer.is_some() => return Poll::Ready(Err(Failed::Broken)),
            Err(failed) => return Poll::Ready(Err(failed)),
        }
        if self.answer.is_none()
            && let Some(ended) = ready!(self.poll_head(context))?
        {
            return Poll::Ready(Ok(ended));
        }
        if let (Some((_, download)), false) = (&mut self.answer, self.answered) {
            ready!(download.poll(self.upstream, self.client, u64::MAX, context)).map_err(broken)?;
            self.answered = true;
        }
        // An answer may come before its request is whole: the upstream may read on all the same. But a client that still waits to be asked
        // for the body need not send it now.
        if self.sent == Sent::Going && !self.may_be_kept_back() {
            ready!(self.poll_rest(context));
        }
        Poll::Ready(Ok(self.ended()))
    }

    /// How it ends, with the answer at the client. Connections are kept where the whole request has gone through them, too.
    pub(crate) fn ended(&self) -> Ended {
        let whole = self.sent == Sent::Whole;
        let clean = whole && self.upstream.come.is_empty() && self.upstream.going.is_empty();
        let head = self.answer();
        Ended::Complete {
            reusable: clean && head.is_some_and(|head| head.upstream_stays),
            stays: whole && head.is_some_and(|head| head.client_stays),
            whole,
        }
    }

    /// The client may have waited to be asked for the body, and not send it now.
    fn may_be_kept_back(&self) -> bool {
        self.expects && !self.has_taken()
    }

    /// Ends when the upstream does, for then it reads no more.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Nothing was asked of it: what comes all the same makes its connection unusable, and is not read beyond that.
        while self.upstream.come.is_empty() {
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

    /// Sends the request on; when that is done, sees whether the client goes.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), Failed> {
        if self.sent == Sent::Going {
            match self.upload.poll(self.client, self.upstream, self.limit, context) {
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
                // Nobody wants it, but the client may read the answer only when it has sent all.
                self.client.come.clear();
            }
            if self.client.come.len() >= AHEAD {
                return Ok(());
            }
            match self.client.poll_fill(AHEAD, context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(Failed::Gone),
            }
        }
    }

    /// May the client's connection be kept after the answer that comes now?
    fn stays(&self) -> Stays {
        match self.sent {
            _ if !self.stays => Stays::No,
            Sent::Whole => Stays::Yes,
            Sent::Going if !self.may_be_kept_back() => Stays::IfUpstreamDoes,
            Sent::Going | Sent::Refused => Stays::No,
        }
    }

    /// Reads the head of the answer, and passes on interim ones.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Ended>, Failed>> {
        loop {
            if !self.client.going.is_empty() {
                // An interim answer; what waits behind it need not wait for it.
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

    /// Reads once. What comes with the head of an answer goes on with it, from the buffer that it was read to.
    fn poll_read_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Read, Failed>> {
        let taken = self.has_taken();
        let unsent = self.sent == Sent::Refused && !taken;
        let returning = Returning {
            stays: self.stays(),
            extra: self.extra,
            max_head: self.max_head,
        };
        let Wire { io, come, .. } = &mut *self.upstream;
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
            if come.is_empty() {
                let (used, read) = heads.read(bytes, context)?;
                come.extend_from_slice(&bytes[used..]);
                return Ok(read);
            }
            come.extend_from_slice(bytes);
            let mut all = come.split();
            let (used, read) = heads.read(&all, context)?;
            all.advance(used);
            *come = all;
            Ok(read)
        }));
        Poll::Ready(read.unwrap_or(Err(Failed::Unanswered { unsent, taken })))
    }
}

/// What reading heads comes to.
enum Read {
    /// More must come.
    More,
    /// Both sides leave HTTP.
    Switched,
    /// That of the answer was read.
    Answer,
}

/// Heads of answers on their way to the client.
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
    /// Passes on what is in these bytes; with it, how many were used.
    fn read(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(usize, Read), Failed> {
        let mut used = 0;
        loop {
            match response(&bytes[used..], self.request, self.returning, self.out) {
                Parsed::Partial => return Ok((used, Read::More)),
                Parsed::Rejected(_) => return Err(Failed::BadAnswer),
                Parsed::Complete(length, head) => {
                    used += length;
                    let before = self.client.going.len();
                    // HTTP/1.0 knows no interim answers (RFC 9110, 15.2).
                    if self.request.is_11 || head.status >= 200 {
                        self.client.going.extend_from_slice(self.out);
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
                        let mut download = Pump::new(Scanner::new(head.framing), form);
                        used += match download.pass(&bytes[used..], self.client, context) {
                            Ok(passed) => passed,
                            Err(Stuck::Framing(_)) => {
                                // Nothing of it has gone.
                                self.client.going.truncate(before);
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
