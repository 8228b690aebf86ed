//! Where an upstream is reached.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Where an upstream listens, and how it knows that a connection is the proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it listens.
    pub socket: SocketAddr,
    /// The mark of what is sent to it (`SO_MARK`, socket(7)), without which it may accept no connection.
    pub mark: Option<u32>,
}

impl Address {
    /// A connection of its own. The wait is bounded by the caller.
    ///
    /// # Errors
    /// Those of connect(2); `EPERM` for a mark without the privilege.
    pub async fn connect(self) -> io::Result<TcpStream> {
        let socket = match self.socket {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(self.socket).await
    }
}

impl<T: Into<SocketAddr>> From<T> for Address {
    fn from(socket: T) -> Address {
        Address {
            socket: socket.into(),
            mark: None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}
