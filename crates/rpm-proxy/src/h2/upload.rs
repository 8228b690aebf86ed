//! Bodies of requests on their way to an upstream.

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
pub(crate) enum Upward {
    /// The client's, as it comes.
    Client(Box<FromClient>),
    /// None: it can be sent again.
    Nothing,
}

/// A client's body, and how much of it may still come.
pub(crate) struct FromClient {
    body: Incoming,
    left: u64,
    upload: Rc<Upload>,
}

/// What is wrong with a client's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is longer than allowed.
    TooLong,
    /// The client has broken it off.
    BrokenOff,
}

/// What has come of a client's body.
#[derive(Debug)]
pub(crate) struct Upload {
    streams: Rc<Streams>,
    /// Why the client's body is not sent to its end, if that is the client's fault.
    fault: Cell<Option<Fault>>,
    /// Nothing of it is here, and the upstream would take it.
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

    /// It is the client that the upstream waits for.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// How much of it has come.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When something of it came last.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }
}

impl Upward {
    /// Up to `max` bytes.
    pub(crate) fn client(body: Incoming, max: u64, upload: Rc<Upload>) -> Upward {
        Upward::Client(Box::new(FromClient {
            body,
            left: max,
            upload,
        }))
    }
}

impl Body for Upward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Upward::Client(from) = self.get_mut() else {
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
                return Poll::Ready(Some(Err("the body is longer than allowed".into())));
            };
            from.left = left;
            upload.bytes.set(upload.bytes.get() + length);
        }
        Poll::Ready(frame.map(|frame| frame.map(allowed_frame).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upward::Client(from) => from.body.is_end_stream(),
            Upward::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upward::Client(from) => from.body.size_hint(),
            Upward::Nothing => SizeHint::with_exact(0),
        }
    }
}
