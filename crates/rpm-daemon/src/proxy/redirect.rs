//! The port whose clients are sent to https.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpm_core::GroupId;
use rpm_keeper::Kept;
use rpm_listen::Fronted;
use rpm_proxy::{Front, Proxy, Settings};
use rpm_sys::socket;

use crate::proxy::fronts::Parting;

/// One that is open.
pub(crate) struct Redirect {
    pub(crate) port: u16,
    id: u32,
    front: Arc<Front>,
    listeners: Vec<Kept<OwnedFd>>,
}

impl Redirect {
    /// Has the proxy serve the port; with the sockets that were `kept` of it, which leave there.
    ///
    /// # Errors
    /// The port is used by somebody else, or no descriptor is left.
    pub(crate) fn open(
        fronted: &Fronted<'_>,
        port: u16,
        proxy: &Proxy,
        kept: &mut Vec<Kept<OwnedFd>>,
    ) -> io::Result<Redirect> {
        let front = Front::new();
        let settings = Settings {
            redirect: Some(fronted.addr()?.port()),
            ..Settings::default()
        };
        front.set(settings).map_err(io::Error::other)?;
        let redirect = Redirect {
            port,
            id: redirect_id(fronted.group),
            front,
            listeners: fronted.open_port(port, proxy.threads(), kept)?,
        };
        let opened = redirect
            .listeners()
            .and_then(|listeners| proxy.open(redirect.id, listeners, &redirect.front));
        match opened {
            Ok(()) => Ok(redirect),
            Err(error) => {
                redirect.close(proxy);
                Err(error)
            }
        }
    }

    /// The sockets that listen.
    ///
    /// # Errors
    /// No descriptor is left.
    fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        self.listeners
            .iter()
            .map(|listener| listener.try_clone())
            .collect()
    }

    /// Connections of clients.
    pub(crate) fn connections(&self) -> u32 {
        self.front.figures().connections
    }

    /// As the front that it belongs to.
    pub(crate) fn part(&self, proxy: &Proxy, parts: Parting) {
        match parts {
            Parting::Stays => proxy.leave(self.id, false),
            Parting::Thinned => proxy.thin(self.id),
            Parting::Asked => proxy.part(self.id),
            Parting::Idle => proxy.clear(self.id),
        }
    }

    /// Nobody listens there any more.
    pub(crate) fn close(self, proxy: &Proxy) {
        proxy.close(self.id);
        for listener in &self.listeners {
            // The proxy's threads have copies for a moment. What fails here has failed to listen before.
            let _ = socket::unlisten(listener);
        }
    }
}

/// Groups are numbered from below.
fn redirect_id(group: GroupId) -> u32 {
    u32::MAX - group.0
}
