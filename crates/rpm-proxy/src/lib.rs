//! The HTTP plane: clients' connections end here, and each *request* goes to the worker that should have it.
//!
//! A [`Front`] is a public address with its upstreams, the private listeners of the workers behind it. It is served by all threads of a
//! [`Proxy`]: each has its own runtime, accepts from the same listener, and keeps its own idle connections to the workers, so that a
//! request takes no lock. Which upstreams there are is a snapshot that is replaced as a whole ([`Front::set_upstreams`]); what is
//! counted of an upstream survives that.
//!
//! A request is *chosen* an upstream for ([`balance`]), *sent* over an idle connection or a new one (`pool`), and *tried again* elsewhere if
//! it cannot have been processed, or may be processed twice (`forward`). Bodies are streamed, never kept.

mod access_log;
mod address;
mod attempt;
pub mod balance;
mod body;
mod compress;
mod deadline;
mod descriptors;
mod forward;
mod front;
pub mod headers;
mod health;
pub mod http1;
mod lent;
pub mod network;
mod pool;
pub mod proxy_protocol;
mod rewound;
mod screen;
mod serve;
mod streams;
mod tcp;
mod threads;
pub mod tls;
mod trailers;
mod tunnel;
mod upstream;
mod websocket;

pub use access_log::{LogSettings, Opener};
pub use address::Address;
pub use balance::Policy;
pub use front::{BOUNDS_MS, BadHeadSize, Figures, Front, HEAD_SIZES, Settings, Unusable, head_size};
pub use health::Check;
pub use threads::Proxy;
pub use tls::Certificate;
pub use upstream::{Target, Upstream, UpstreamFigures, UpstreamId};
