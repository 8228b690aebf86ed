//! The HTTP plane: clients' connections end here, and each *request* goes to the worker that should have it.
//!
//! A [`Front`] is a public address with its upstreams, the private listeners of the workers behind it. It is served by all threads of a
//! [`Proxy`]: each has its own runtime, accepts from the same listener, and keeps its own idle connections to the workers, so that a
//! request takes no lock. Which upstreams there are is a snapshot that is replaced as a whole ([`Front::set_upstreams`]); what is
//! counted of an upstream survives that.
//!
//! A request is *chosen* an upstream for ([`balance`]), *sent* over an idle connection or a new one (`pool`), and *tried again* elsewhere if
//! it cannot have been processed, or may be processed twice. The rules are in [`policy`]; [`h1`] and `h2` write what follows from them in
//! their version of HTTP. Bodies are streamed, never kept.

mod accept;
mod access_log;
mod address;
mod attempt;
pub mod balance;
mod deadline;
mod descriptors;
mod front;
mod gzip;
pub mod h1;
mod h2;
pub mod health;
pub mod network;
mod peer;
mod plaintext_guard;
pub mod policy;
mod pool;
mod prefixed;
pub mod proxy_protocol;
mod serve;
mod settings;
mod stage;
mod tcp;
mod threads;
pub mod tls;
mod tunnel;
mod upstream;

pub use access_log::{LogSettings, Opener};
pub use address::Address;
pub use balance::Policy;
pub use front::{BOUNDS_MS, Figures, Front, Unusable};
pub use settings::{BadHeadSize, Check, HEAD_SIZES, Settings, head_size};
pub use threads::Proxy;
pub use tls::Certificate;
pub use upstream::{Target, Upstream, UpstreamFigures, UpstreamId};
