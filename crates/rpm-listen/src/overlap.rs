//! Addresses that overlap, such as `127.0.0.1:80` and `[::]:80`. A listener on the narrower one takes its clients from the wider one.

use std::net::SocketAddr;

use rpm_core::{AppId, GroupId, SlotId};
use rpm_sys::sock_diag;

use crate::conflict::occupant;
use crate::group::Group;
use crate::listeners::Listeners;
use crate::open_error::OpenError;

impl Listeners {
    /// True if the TCP address overlaps one that the same app serves under another key. A new listener there would at once take clients
    /// from the other, bypassing steering.
    #[must_use]
    pub fn overlaps_own(&self, app: AppId, key: &str, addr: SocketAddr, v6only: bool) -> bool {
        self.group(app, key).is_none() && self.overlapping(addr, v6only).any(|(_, group)| group.app == app)
    }

    /// Fails if another app listens where clients of this address arrive. Unlike [`Listeners::open`] it does not look at processes outside
    /// the daemon.
    ///
    /// # Errors
    /// The listener of the other app.
    pub fn refuse_other_app(&self, app: AppId, addr: SocketAddr, v6only: bool) -> Result<(), OpenError> {
        let mut others = self.overlapping(addr, v6only).map(|(_, group)| group);
        match others.find(|group| group.app != app) {
            None => Ok(()),
            Some(other) => Err(OpenError::Ours {
                addr,
                held: other.addr,
                app: other.app,
            }),
        }
    }

    fn overlapping(&self, addr: SocketAddr, v6only: bool) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter().filter(move |(_, group)| {
            addr.port() != 0
                && sock_diag::overlaps(addr, v6only, group.addr, group.v6only)
                && !group.slots.is_empty()
        })
    }

    pub(crate) fn refuse_overlap(&self, addr: SocketAddr, v6only: bool) -> Result<(), OpenError> {
        if let Some((_, other)) = self.overlapping(addr, v6only).next() {
            return Err(OpenError::Ours {
                addr,
                held: other.addr,
                app: other.app,
            });
        }
        match occupant(addr, v6only) {
            Ok(None) => Ok(()),
            Ok(Some(by)) => Err(OpenError::Foreign { addr, by }),
            Err(source) => Err(OpenError::Io {
                what: format!("{addr}: the socket table"),
                source,
            }),
        }
    }

    /// The slots that get this group's clients when it is closed: those of another group of the same app that overlaps it.
    pub(crate) fn heirs(&self, id: GroupId) -> Vec<SlotId> {
        let Some(group) = self.groups.get(&id) else {
            return Vec::new();
        };
        let mut others = self.overlapping(group.addr, group.v6only);
        let heir = others.find(|(other, heir)| **other != id && heir.app == group.app);
        heir.map(|(_, heir)| heir.eligible.clone()).unwrap_or_default()
    }
}
