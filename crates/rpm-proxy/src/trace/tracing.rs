//! What is traced.

use std::rc::Rc;
use std::sync::Arc;

use super::context::{Context, Drawn, SampledPart};
use super::ids;
use super::open::{Asked, OpenSpan};
use super::spans::Spans;

/// What is traced of the requests of a front.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The part of new traces that is sampled.
    pub part: SampledPart,
    /// What the requests are for.
    pub app: Arc<str>,
    /// Where spans go.
    pub spans: Arc<Spans>,
}

impl PartialEq for Tracing {
    fn eq(&self, other: &Tracing) -> bool {
        (self.part, &self.app) == (other.part, &other.app) && Arc::ptr_eq(&self.spans, &other.spans)
    }
}

impl Eq for Tracing {}

impl Tracing {
    /// The context of a request with these fields `traceparent`, and its span if it is sampled.
    pub(crate) fn begin<'v>(
        &self,
        fields: impl Iterator<Item = &'v [u8]>,
        asked: Asked<'_>,
    ) -> (Context, Option<Rc<OpenSpan>>) {
        let drawn = ids::with(|ids| Drawn {
            trace: ids.trace(),
            span: ids.span(),
        });
        let context = Context::of(fields, self.part, drawn);
        let open = || Rc::new(OpenSpan::begin(&self.app, &self.spans, context, asked));
        (context, context.is_sampled().then(open))
    }
}
