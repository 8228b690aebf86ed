//! The users that sockets belong to. The kernel shares a port only between sockets of one user, so the sockets of an app belong to the user
//! that the app runs as. If they belonged to the daemon's user, a worker that holds one could join the port of another app.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, SlotId};
use rpm_sys::peer::effective_uid;
use rpm_sys::socket;

use crate::group::Group;
use crate::listeners::{Listeners, Request};

impl Request<'_> {
    /// The user that the group's sockets belong to; `None` for the daemon's.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.user.map(|user| user.uid)
    }
}

impl Group {
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let slots = self.slots.values().map(|slot| slot.fd.as_fd());
        slots.chain(self.front.iter().map(|listener| listener.as_fd()))
    }

    /// The user that the socket belongs to; `None` for the daemon's.
    pub(crate) fn owner(&self) -> io::Result<Option<u32>> {
        self.sockets().next().map(socket::owner).transpose()
    }

    /// Gives the sockets to the user that the app runs as now; `None` for the daemon's. They may belong to another user since before a
    /// reload, or to the daemon if an older version opened them.
    pub(crate) fn belong_to(&self, owner: Option<u32>) -> io::Result<()> {
        let owner = owner.unwrap_or_else(effective_uid);
        // All sockets of a group have one owner. Checking one keeps this cheap when a worker joins a large group.
        match self.owner()? {
            Some(other) if other != owner => self.sockets().try_for_each(|fd| socket::give(fd, owner)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Listeners {
    /// The user that connections of the slot are given to before a worker gets them; `None` for the daemon's.
    #[must_use]
    pub fn owner_of(&self, slot: SlotId) -> Option<u32> {
        let owner = socket::owner(self.socket(slot)?).ok()?;
        (owner != effective_uid()).then_some(owner)
    }

    /// True if a slot that a worker has left is as one would be that is opened for this request: on the same data path, of the same user, and
    /// of the same weight.
    #[must_use]
    pub fn suits(&self, slot: SlotId, by: &Request<'_>) -> bool {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        let Some((group, held)) = group.and_then(|group| Some((group, group.slots.get(&slot)?))) else {
            return false;
        };
        (held.is_private(), group.deal.is_some(), held.weight) == (by.proxy > 0, by.handoff, by.weight)
            && self.owner_of(slot) == by.owner()
    }

    /// Gives the sockets of an app to the user that it runs as. An older daemon may have kept them as its own.
    ///
    /// # Errors
    /// `EPERM`: the daemon may not change owners.
    pub fn belong_to(&self, app: AppId, owner: u32) -> io::Result<()> {
        let mut groups = self.groups.values().filter(|group| group.app == app);
        groups.try_for_each(|group| group.belong_to(Some(owner)))?;
        let mut shared = self.shared.iter().filter(|shared| shared.app == app);
        shared.try_for_each(|shared| socket::give(shared.fd.as_fd(), owner))
    }
}

/// Reserves the number of a port 0 until a socket is bound to it. A slot must be bound to the number: whoever holds a socket whose port the
/// kernel chose can bind it elsewhere.
pub(crate) fn reserve(owner: Option<u32>, addr: SocketAddr, v6only: bool) -> io::Result<Option<OwnedFd>> {
    let reserved = (addr.port() == 0).then(|| socket::bind_tcp_for(owner, addr, v6only));
    reserved.transpose()
}

#[cfg(test)]
mod tests {
    use rpm_core::{AppId, WorkerId};
    use rpm_sys::user::User;

    use super::*;
    use crate::listeners::Opening;
    use crate::policy::SteeringPolicy;
    use crate::wanted::Wanted;

    fn any() -> Wanted {
        Wanted::Tcp {
            addr: ([127, 0, 0, 1], 0).into(),
            v6only: false,
        }
    }

    fn request(user: Option<&User>, worker: u64, proxy: usize) -> Request<'_> {
        Request {
            app: AppId(1),
            key: "key",
            worker: WorkerId(worker),
            beside: false,
            policy: SteeringPolicy::RoundRobin,
            weight: 1,
            handoff: false,
            proxy,
            user,
        }
    }

    /// A worker that got one of them could otherwise bind another port as the same user.
    #[test]
    fn no_socket_forgets_its_port_when_it_is_disconnected() {
        for proxy in [0, 2] {
            let mut listeners = Listeners::new(rpm_keeper::Keeper::none()).unwrap();
            listeners
                .open(Opening::Address(&any()), &request(None, 1, proxy))
                .unwrap();
            let group = listeners.groups.values().next().unwrap();
            let port = group.addr.port();
            assert_ne!(port, 0);
            assert_eq!(group.sockets().count(), 1 + proxy);
            for fd in group.sockets() {
                rustix::net::connect_unspec(fd).unwrap();
                assert_eq!(socket::local_addr(fd).unwrap().port(), port);
            }
        }
    }

    #[test]
    fn sockets_are_of_the_apps_user_also_where_it_has_become_another_one() {
        if effective_uid() != 0 {
            return;
        }
        let user = |uid| User {
            uid,
            gid: uid,
            groups: vec![uid],
            account: None,
        };
        for proxy in [0, 2] {
            let mut listeners = Listeners::new(rpm_keeper::Keeper::none()).unwrap();
            for (worker, uid) in [None, Some(65_432), Some(65_433), None].into_iter().enumerate() {
                let user = uid.map(user);
                listeners
                    .open(
                        Opening::Address(&any()),
                        &request(user.as_ref(), worker as u64, proxy),
                    )
                    .unwrap();
                let group = listeners.groups.values().next().unwrap();
                let owners: Vec<u32> = group.sockets().map(|fd| socket::owner(fd).unwrap()).collect();
                assert_eq!(owners, vec![uid.unwrap_or(0); worker + 1 + proxy]);
            }
            listeners.belong_to(AppId(1), 65_434).unwrap();
            let slot = listeners.open_slots().next().unwrap();
            assert_eq!(listeners.owner_of(slot), Some(65_434));
        }
    }
}
