//! The HTTP data path: it terminates clients' connections and passes each *request* to a worker.
//!
//! A [`Front`] is a public address with its upstreams, the private listeners of the workers behind it. It is served by all threads of a
//! [`Proxy`]: each has its own runtime, accepts from the same listener, and keeps its own idle connections to the workers, so that a
//! request that is not sampled takes no lock while none waits for room (`queue`). The list of upstreams is a snapshot that is replaced as a whole ([`Front::set_upstreams`]); the counters of an
//! upstream survive that.
//!
//! For each request the proxy *chooses* an upstream ([`balance`]), *sends* the request over an idle connection or a new one (`pool`), and
//! *retries* elsewhere if the request cannot have been processed, or may be processed twice. The rules are in [`policy`]; [`h1`] and `h2`
//! apply them in their version of HTTP. Bodies are streamed, never stored.

mod accept;
mod access_log;
mod address;
mod any_stream;
mod attempt;
pub mod balance;
mod deadline;
mod descriptors;
mod ejection;
mod front;
mod gzip;
pub mod h1;
mod h2;
pub mod health;
mod latency;
mod log_limit;
pub mod network;
mod peer;
mod plaintext_guard;
pub mod policy;
mod pool;
mod prefixed;
pub mod proxy_protocol;
mod queue;
mod serve;
mod settings;
mod stage;
mod target;
mod tcp;
mod threads;
pub mod trace;
mod tunnel;
mod turns;
mod upstream;

pub use access_log::{LogSettings, Opener};
pub use address::{Address, Credentials};
pub use balance::UpstreamPolicy;
pub use front::{BOUNDS_MS, Figures, Front, Unusable};
pub use health::HealthReports;
pub use rpm_tls::{Certificate, check as check_certificates};
pub use settings::{BadHeadSize, Check, HEAD_SIZES, Settings, head_size};
pub use target::{Target, UpstreamId};
pub use threads::Proxy;
pub use trace::{SPANS, Span, Spans, Tracing};
pub use upstream::{Upstream, UpstreamFigures};
