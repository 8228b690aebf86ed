//! Bodies of requests to an upstream.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::streams::Streams;
use super::trailers::allowed_frame;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request to an upstream.
pub(crate) enum RequestBody {
    /// From the client.
    Client(Box<FromClient>),
    /// No body: the request can be sent again.
    Nothing,
}

/// A client's body, and how many bytes of it are still allowed.
pub(crate) struct FromClient {
    body: Incoming,
    left: u64,
    upload: Rc<Upload>,
}

/// What is wrong with a client's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is larger than allowed.
    TooLong,
    /// The client has broken it off.
    BrokenOff,
}

/// The progress of a client's body.
#[derive(Debug)]
pub(crate) struct Upload {
    streams: Rc<Streams>,
    /// What is wrong with the body, if that is the client's fault.
    fault: Cell<Option<Fault>>,
    /// The upstream waits for more of it.
    awaited: Cell<bool>,
    bytes: Cell<u64>,
    moved: Cell<Instant>,
}

impl Upload {
    pub(crate) fn new(streams: Rc<Streams>) -> Rc<Upload> {
        Rc::new(Upload {
            streams,
            fault: Cell::new(None),
            awaited: Cell::new(false),
            bytes: Cell::new(0),
            moved: Cell::new(Instant::now()),
        })
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// The upstream waits for the client.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// How much of it has come.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the last part arrived.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }
}

impl RequestBody {
    /// A client's body of up to `max` bytes.
    pub(crate) fn client(body: Incoming, max: u64, upload: Rc<Upload>) -> RequestBody {
        RequestBody::Client(Box::new(FromClient {
            body,
            left: max,
            upload,
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let RequestBody::Client(from) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut from.body).poll_frame(context);
        let upload = &from.upload;
        upload.awaited.set(polled.is_pending());
        let frame = ready!(polled);
        upload.moved.set(upload.streams.moved());
        if let Some(Err(_)) = &frame {
            upload.fault.set(Some(Fault::BrokenOff));
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let length = data.len() as u64;
            let Some(left) = from.left.checked_sub(length) else {
                upload.fault.set(Some(Fault::TooLong));
                return Poll::Ready(Some(Err("request body too large".into())));
            };
            from.left = left;
            upload.bytes.set(upload.bytes.get() + length);
        }
        Poll::Ready(frame.map(|frame| frame.map(allowed_frame).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Client(from) => from.body.is_end_stream(),
            RequestBody::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Client(from) => from.body.size_hint(),
            RequestBody::Nothing => SizeHint::with_exact(0),
        }
    }
}
