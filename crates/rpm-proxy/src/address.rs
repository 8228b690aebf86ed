//! Where an upstream is reached.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use tokio::net::{TcpSocket, TcpStream};

/// How an upstream, which lets nobody else in, knows that a connection is the proxy's.
pub trait Credentials: fmt::Debug + Sync {
    /// Prepares a connection before it is opened.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    fn show(&self, connection: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()>;

    /// The connection is established.
    fn shown(&self, connection: BorrowedFd<'_>);
}

/// Where an upstream listens, and how it knows that a connection is the proxy's.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// Where it listens.
    pub socket: SocketAddr,
    /// What must be shown to it, if anything.
    pub credentials: Option<&'static dyn Credentials>,
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        // What is shown follows from the address.
        (self.socket, self.credentials.is_some()) == (other.socket, other.credentials.is_some())
    }
}

impl Eq for Address {}

impl Address {
    /// A connection of its own. The wait is bounded by the caller.
    ///
    /// # Errors
    /// Those of connect(2) and of [`Credentials::show`].
    pub async fn connect(self) -> io::Result<TcpStream> {
        let socket = match self.socket {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        let Some(credentials) = self.credentials else {
            return socket.connect(self.socket).await;
        };
        credentials.show(socket.as_fd(), self.socket)?;
        let connected = socket.connect(self.socket).await?;
        credentials.shown(connected.as_fd());
        Ok(connected)
    }
}

impl<T: Into<SocketAddr>> From<T> for Address {
    fn from(socket: T) -> Address {
        Address {
            socket: socket.into(),
            credentials: None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}
