//! Filters trailers that hyper has parsed.

use hyper::HeaderMap;
use hyper::body::Frame;
use hyper::header::HeaderName;

use crate::policy::trailers::is_trailer;

/// Removes forbidden fields from a frame of trailers.
pub(crate) fn allowed_frame<D>(frame: Frame<D>) -> Frame<D> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(allowed(trailers)),
        Err(frame) => frame,
    }
}

fn allowed(mut trailers: HeaderMap) -> HeaderMap {
    let others: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| !is_trailer(name.as_str()))
        .cloned()
        .collect();
    for name in others {
        trailers.remove(name);
    }
    trailers
}
