//! A real proxy between real clients and upstreams.

mod answers;
mod blame;
mod both;
mod breaks;
mod checks;
mod client;
mod compressing;
mod corpus;
mod forwarding;
mod frames;
mod h2c;
mod heads;
mod http2;
mod limits;
mod logs;
mod parting;
mod retries;
mod site;
mod time;
mod tracing;
mod uploads;
mod waiting;
