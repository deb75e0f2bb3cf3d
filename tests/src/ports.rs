//! Ports that nobody else gets while a test holds them.
//!
//! Asking the kernel for a port and closing the socket again leaves a gap: any outgoing connection on the machine may
//! be given the port before the member binds it, or while a stopped member is down. A [`Port`] therefore keeps its
//! socket bound, but never listening. Linux lets a second socket bind and listen beside it if both have SO_REUSEADDR,
//! as every listener of std and tokio has; it hands a bound port out neither to connections nor to other reservations.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net;

/// A TCP port on 127.0.0.1, reserved as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    /// Reserves a port that the kernel picks.
    pub fn reserve() -> Port {
        let socket = net::socket_with(
            net::AddressFamily::INET,
            net::SocketType::STREAM,
            net::SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket");
        // The option comes after the bind: with it, the kernel might pick a port that another reservation holds.
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        net::sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
        let address = net::getsockname(&socket).expect("the address of a bound socket");
        let address = SocketAddr::try_from(address).expect("an IPv4 address");
        Port { number: address.port(), _socket: socket }
    }

    /// The number of the port.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_can_be_listened_on_again_and_again() {
        let port = Port::reserve();
        for _ in 0..3 {
            let listener = TcpListener::bind(("127.0.0.1", port.number())).unwrap();
            let client = TcpStream::connect(("127.0.0.1", port.number())).unwrap();
            let (server, _) = listener.accept().unwrap();
            drop((server, client, listener));
        }
    }

    #[test]
    fn nobody_listens_on_a_reserved_port() {
        let port = Port::reserve();
        assert!(TcpStream::connect(("127.0.0.1", port.number())).is_err());
    }

    #[test]
    fn reservations_never_meet() {
        let ports: Vec<Port> = (0..200).map(|_| Port::reserve()).collect();
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
