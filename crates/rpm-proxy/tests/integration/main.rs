//! A real proxy between real clients and upstreams.

mod answers;
mod both;
mod corpus;
mod frames;
mod heads;
mod http2;
mod parting;
mod retries;
mod site;
mod time;
mod uploads;
