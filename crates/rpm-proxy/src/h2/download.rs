//! Bodies of responses to a client.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::streams::Stream;
use super::trailers::allowed_frame;
use super::upload::{BoxError, Upload};
use crate::access_log::Line;
use crate::deadline::Deadline;
use crate::front::{Front, Unfinished};
use crate::gzip::Gzip;
use crate::pool::{Connection, Pools};
use crate::trace::open::OpenSpan;
use crate::upstream::InFlight;

/// Most bytes that are passed on at once: a frame. What is asked for next shows that the client has taken what was before.
const PART: usize = 16 * 1024;

/// The body of a response to a client.
pub(crate) enum ResponseBody {
    /// From an upstream.
    Upstream(Box<UpstreamBody>),
    /// From the proxy itself.
    Local(Full<Bytes>, Option<Box<Line>>, Option<Rc<OpenSpan>>),
}

impl ResponseBody {
    /// An empty body.
    pub(crate) fn nothing() -> ResponseBody {
        ResponseBody::local(Full::default())
    }

    /// A body of the proxy itself.
    pub(crate) fn local(body: Full<Bytes>) -> ResponseBody {
        ResponseBody::Local(body, None, None)
    }

    /// The span of the request lasts as long as the body.
    pub(crate) fn hold(&mut self, span: Rc<OpenSpan>) {
        match self {
            ResponseBody::Upstream(passing) => passing.span = Some(span),
            ResponseBody::Local(_, _, held) => *held = Some(span),
        }
    }

    /// Attaches the line for the access log.
    pub(crate) fn note(&mut self, mut line: Line, status: u16) {
        line.outcome.status = status;
        match self {
            ResponseBody::Upstream(passing) => {
                line.outcome.upstream = Some(passing.in_flight.upstream().key());
                passing.line = Some(line);
            }
            ResponseBody::Local(body, noted, _) => {
                line.outcome.bytes = body.size_hint().exact().unwrap_or(0);
                *noted = Some(Box::new(line));
            }
        }
    }
}

/// A body from an upstream, and what it holds until it is complete.
pub(crate) struct UpstreamBody {
    pub(crate) status: u16,
    pub(crate) body: Incoming,
    /// What has arrived and was not passed on yet.
    pub(crate) rest: Bytes,
    pub(crate) ended: bool,
    /// The request is in flight until the body is dropped.
    pub(crate) in_flight: InFlight,
    /// Returned to the pool if the body is complete.
    pub(crate) connection: Option<Connection>,
    pub(crate) pools: Rc<Pools>,
    /// Compresses the body.
    pub(crate) gzip: Option<Gzip>,
    /// The line for the access log.
    pub(crate) line: Option<Line>,
    /// The request, if it is sampled.
    pub(crate) span: Option<Rc<OpenSpan>>,
    /// Bytes that have arrived.
    pub(crate) bytes: u64,
    pub(crate) front: Arc<Front>,
    /// The body of the request, if it has one.
    pub(crate) upload: Option<Rc<Upload>>,
    /// Its connection is busy until the body is dropped.
    pub(crate) stream: Stream,
    pub(crate) silence: Silence,
}

/// How long both bodies may stall.
pub(crate) struct Silence {
    within: Duration,
    /// Created when the body first stalls.
    deadline: Option<Deadline>,
}

impl Silence {
    pub(crate) fn new(within: Duration) -> Silence {
        Silence {
            within,
            deadline: None,
        }
    }

    fn is_broken(&mut self) {
        if let Some(deadline) = &mut self.deadline {
            deadline.set(self.within);
        }
    }

    /// Ready when both bodies have stalled for too long. `other`: when the other body moved.
    fn poll(&mut self, other: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let within = self.within;
        let deadline = self.deadline.get_or_insert_with(|| {
            let mut deadline = Deadline::new();
            deadline.set(within);
            deadline
        });
        loop {
            ready!(deadline.poll(context));
            let left = other.map(|other| (other + within).saturating_duration_since(Instant::now()));
            match left.filter(|left| !left.is_zero()) {
                Some(left) => deadline.set(left),
                None => return Poll::Ready(()),
            }
        }
    }
}

impl UpstreamBody {
    /// Records that the response does not end, unless the client is the cause.
    fn unfinished(&self, why: Unfinished) {
        let is_cause = |upload: &Rc<Upload>| match why {
            Unfinished::BrokeOff => upload.fault().is_some(),
            Unfinished::Stalled => upload.is_awaited(),
        };
        if !self.upload.as_ref().is_some_and(is_cause) {
            self.front.unfinished(self.in_flight.upstream(), self.status, why);
        }
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() {
            match ready!(self.poll_arrival(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        } else {
            // The client takes it.
            self.silence.is_broken();
            self.stream.moved();
        }
        let part = self.rest.split_to(self.rest.len().min(PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }

    /// Nothing is left to be passed on.
    fn is_complete(&self) -> bool {
        let has_all = match self.gzip {
            Some(_) => self.ended,
            None => self.body.is_end_stream(),
        };
        has_all && self.rest.is_empty()
    }

    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                let other = self.upload.as_ref().map(|upload| upload.moved());
                ready!(self.silence.poll(other, context));
                self.unfinished(Unfinished::Stalled);
                return Poll::Ready(Some(Err("response stalled".into())));
            };
            self.silence.is_broken();
            self.stream.moved();
            self.ended |= frame.is_none();
            if let Some(Err(_)) = &frame {
                self.unfinished(Unfinished::BrokeOff);
            }
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            let Some(gzip) = &mut self.gzip else {
                return Poll::Ready(frame.map(|frame| frame.map(allowed_frame).map_err(Into::into)));
            };
            let bytes = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        gzip.push(&data);
                        gzip.take()
                    }
                    // Trailers may depend on the uncompressed body.
                    Err(_) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => gzip.finish().unwrap_or_default(),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if let Some(line) = &mut self.line {
            line.outcome.bytes = self.bytes;
        }
        let up = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        self.front.count_bytes((up, self.bytes));
        if let Some(connection) = self.connection.take()
            && (self.ended || self.body.is_end_stream())
        {
            self.pools.put(self.in_flight.upstream().id(), connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResponseBody::Upstream(passing) => passing.poll_body(context),
            // This body cannot fail.
            ResponseBody::Local(body, ..) => {
                Pin::new(body).poll_frame(context).map_err(|never| match never {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Upstream(passing) => passing.is_complete(),
            ResponseBody::Local(body, ..) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Upstream(passing) if passing.gzip.is_some() => SizeHint::default(),
            ResponseBody::Upstream(passing) => passing.size_hint(),
            ResponseBody::Local(body, ..) => body.size_hint(),
        }
    }
}
