//! A connected client.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::front::Front;
use crate::h2::streams::Streams;
use crate::policy::client::Client;
use crate::policy::sticky::set_cookie;
use crate::pool::Pools;
use crate::upstream::Upstream;

/// A client, and what its requests need.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) front: Arc<Front>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) client: Client,
    pub(crate) ip: IpAddr,
    /// Its requests, if it speaks HTTP/2.
    streams: OnceCell<Rc<Streams>>,
}

impl Peer {
    pub(crate) fn new(front: Arc<Front>, pools: Rc<Pools>, address: IpAddr, secure: bool) -> Option<Peer> {
        let ip = address.to_canonical();
        Some(Peer {
            front,
            pools,
            client: Client::new(ip, secure)?,
            ip,
            streams: OnceCell::new(),
        })
    }

    pub(crate) fn streams(&self) -> &Rc<Streams> {
        self.streams.get_or_init(Streams::new)
    }

    /// The cookie that binds the client to this upstream. `None` if it has it already: `sticky` is the worker in its cookie.
    pub(crate) fn cookie_for(&self, sticky: Option<u32>, upstream: &Upstream) -> Option<String> {
        let settings = self.front.settings();
        let name = settings
            .cookie
            .as_ref()
            .filter(|_| sticky != Some(upstream.key()))?;
        Some(set_cookie(name, upstream.key(), self.client.secure))
    }
}
