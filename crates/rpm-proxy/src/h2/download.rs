//! Bodies of responses on their way to a client. One tells when it is complete.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{REFERER, USER_AGENT};
use hyper::{Request, Version};
use tokio::time::Instant;

use super::streams::Stream;
use super::trailers::allowed_frame;
use super::upload::{BoxError, Upload};
use crate::access_log::{AccessLog, Entry, Outcome};
use crate::deadline::Deadline;
use crate::front::Front;
use crate::gzip::Gzip;
use crate::pool::{Connection, Pools};
use crate::upstream::InFlight;

/// A line of the access log that is written when the answer has ended.
pub(crate) struct Line {
    log: Arc<AccessLog>,
    entry: Entry,
    client: IpAddr,
    outcome: Outcome,
}

impl Line {
    pub(crate) fn new(log: Arc<AccessLog>, client: IpAddr, request: &Request<Incoming>) -> Line {
        let mut entry = Entry::new(&format!(
            "{} {} {}",
            request.method(),
            request.uri().path_and_query().map_or("*", |it| it.as_str()),
            match request.version() {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }
        ));
        entry.field("host", request.uri().host().unwrap_or_default());
        for name in [REFERER, USER_AGENT] {
            let value = request.headers().get(&name).and_then(|value| value.to_str().ok());
            entry.field(name.as_str(), value.unwrap_or_default());
        }
        Line {
            log,
            entry,
            client,
            outcome: Outcome {
                status: 0,
                bytes: 0,
                upstream: None,
            },
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.log.add(&self.entry, self.client, self.outcome);
    }
}

/// The body of an answer to a client.
pub(crate) enum Downward {
    /// The upstream's.
    Upstream(Box<Passing>),
    /// The proxy's own.
    Own(Full<Bytes>, Option<Box<Line>>),
}

impl Downward {
    /// None.
    pub(crate) fn nothing() -> Downward {
        Downward::Own(Full::default(), None)
    }

    /// Has the answer noted when it has ended.
    pub(crate) fn note(&mut self, mut line: Line, status: u16) {
        line.outcome.status = status;
        match self {
            Downward::Upstream(passing) => {
                line.outcome.upstream = Some(passing.in_flight.upstream().key());
                passing.line = Some(line);
            }
            Downward::Own(body, noted) => {
                line.outcome.bytes = body.size_hint().exact().unwrap_or(0);
                *noted = Some(Box::new(line));
            }
        }
    }
}

/// An upstream's body, and what it occupies until it is complete.
pub(crate) struct Passing {
    pub(crate) body: Incoming,
    pub(crate) ended: bool,
    /// Dropped with the body: then the request is no more in flight.
    pub(crate) in_flight: InFlight,
    /// Goes back when the body is complete; one that is not leaves the connection unusable.
    pub(crate) connection: Option<Connection>,
    pub(crate) pools: Rc<Pools>,
    /// It is compressed on its way.
    pub(crate) gzip: Option<Gzip>,
    /// What the log is to say of it.
    pub(crate) line: Option<Line>,
    /// What has come of it.
    pub(crate) bytes: u64,
    pub(crate) front: Arc<Front>,
    /// What comes of the request meanwhile, if that has a body.
    pub(crate) upload: Option<Rc<Upload>>,
    /// Dropped with the body: then its connection is at rest.
    pub(crate) stream: Stream,
    pub(crate) silence: Silence,
}

/// How long neither body may move.
pub(crate) struct Silence {
    within: Duration,
    /// There is none before the first silence.
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

    /// Has it lasted for too long? `other`: when the other body moved.
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

impl Passing {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                let other = self.upload.as_ref().map(|upload| upload.moved());
                ready!(self.silence.poll(other, context));
                return Poll::Ready(Some(Err("the answer goes on no more".into())));
            };
            self.silence.is_broken();
            self.stream.moved();
            self.ended |= frame.is_none();
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
                    // Trailers are of what was compressed.
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

impl Drop for Passing {
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

impl Body for Downward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Downward::Upstream(passing) => passing.poll_body(context),
            // It cannot fail.
            Downward::Own(body, _) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Downward::Upstream(passing) if passing.gzip.is_some() => passing.ended,
            Downward::Upstream(passing) => passing.body.is_end_stream(),
            Downward::Own(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Downward::Upstream(passing) if passing.gzip.is_some() => SizeHint::default(),
            Downward::Upstream(passing) => passing.body.size_hint(),
            Downward::Own(body, _) => body.size_hint(),
        }
    }
}
