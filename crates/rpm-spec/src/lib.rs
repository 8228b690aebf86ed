//! Ecosystem files: what a user says of apps becomes [`AppOptions`], and whatever is wrong with it is reported, all at once.
//!
//! The keys are those of PM2's ecosystem file and rpm's own ([`keys`]), in the tables of options of `rpm-wire`, from which also the JSON Schema for editors
//! ([`schema()`]) and the documentation are made. This crate reads text and values that others have fetched: no file, process or
//! environment is touched here. A `.config.js` is evaluated elsewhere, by the user's own Node or Bun, and comes here as JSON.

mod alerts;
mod deploy;
mod ecosystem;
mod env_file;
mod forward;
mod javascript;
pub mod keys;
mod nearest;
mod observe;
mod options;
mod otlp;
mod parse;
pub mod pm2_dump;
mod schema;
mod site;
mod units;
mod values;
mod yaml;

pub use deploy::{Deployment, deployments};
pub use ecosystem::{Ecosystem, Faults, Problem, Warning, read};
pub use env_file::parse_env;
pub use nearest::nearest;
pub use observe::Observing;
pub use options::{AppOptions, EnvFilter, Health, Logging, Mode, Watch};
pub use parse::{Format, MAX_BYTES, MAX_DEPTH, ParseError, format_of, parse};
pub use schema::schema;
pub use units::{UnitError, memory, time};
pub use values::Wrong;
