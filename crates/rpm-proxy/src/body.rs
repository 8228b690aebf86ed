//! Bodies on their way: what the upstream sends is passed on as it comes, and tells when it is complete.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use crate::compress::Gzip;
use crate::pool::{Connection, Pools};
use crate::upstream::InFlight;

/// The body of a request to an upstream.
pub(crate) enum Upward {
    /// The client's, as it comes.
    Client(Incoming),
    /// None: it can be sent again.
    Nothing,
}

impl Body for Upward {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Upward::Client(body) => Pin::new(body).poll_frame(context),
            Upward::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upward::Client(body) => body.is_end_stream(),
            Upward::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upward::Client(body) => body.size_hint(),
            Upward::Nothing => SizeHint::with_exact(0),
        }
    }
}

/// The body of an answer to a client.
pub(crate) enum Downward {
    /// The upstream's.
    Upstream(Box<Passing>),
    /// The proxy's own.
    Own(Full<Bytes>),
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
}

impl Passing {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            self.ended |= frame.is_none();
            let Some(gzip) = &mut self.gzip else {
                return Poll::Ready(frame);
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
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
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
        if let Some(connection) = self.connection.take()
            && (self.ended || self.body.is_end_stream())
        {
            self.pools
                .connections
                .put(self.in_flight.upstream().id(), connection);
        }
    }
}

impl Body for Downward {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Downward::Upstream(passing) => passing.poll_body(context),
            // It cannot fail.
            Downward::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Downward::Upstream(passing) if passing.gzip.is_some() => passing.ended,
            Downward::Upstream(passing) => passing.body.is_end_stream(),
            Downward::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Downward::Upstream(passing) if passing.gzip.is_some() => SizeHint::default(),
            Downward::Upstream(passing) => passing.body.size_hint(),
            Downward::Own(body) => body.size_hint(),
        }
    }
}
