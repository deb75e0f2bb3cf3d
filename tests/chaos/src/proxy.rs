//! The network between members: every peer URL is that of a proxy in front of its member.
//!
//! A connection between members carries bytes both ways, and who dials is not who sends: followers dial the streams that
//! their leader writes to. So the proxy reads the head of the first request, which names the dialling member
//! (`Kvd-From`), and then treats each direction as the link from one member to another. A link is open, slow, or cut:
//! what is sent into a cut link is held back until it is mended, as by TCP over a network that loses packets, or its
//! connections are broken.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// It carries.
    #[default]
    Open,
    /// It carries each piece so much later.
    Slow(Duration),
    /// It holds everything back.
    Cut,
}

/// A link: from a member, to a member.
pub type Between = (u64, u64);

/// All links of a cluster, and what was done to the bytes on them.
#[derive(Debug, Default)]
pub struct Network {
    links: Mutex<HashMap<Between, Link>>,
    changed: Condvar,
    /// Bytes that met a cut link.
    held: Mutex<HashMap<Between, u64>>,
    /// Bytes that a slow link delayed.
    slowed: AtomicU64,
    closed: AtomicBool,
}

impl Network {
    /// Sets some links.
    pub fn set(&self, between: impl IntoIterator<Item = Between>, link: Link) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for between in between {
            links.insert(between, link);
        }
        drop(links);
        self.changed.notify_all();
    }

    /// Opens every link.
    pub fn mend(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changed.notify_all();
    }

    /// Bytes that were held back on a link so far.
    pub fn held(&self, between: Between) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&between).copied().unwrap_or(0)
    }

    /// Bytes that were delayed so far.
    pub fn slowed(&self) -> u64 {
        self.slowed.load(Ordering::Relaxed)
    }

    /// Waits until a link carries; false if the network is closed.
    fn pass(&self, between: Between, bytes: u64) -> bool {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = false;
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return false;
            }
            match links.get(&between).copied().unwrap_or_default() {
                Link::Open => return true,
                Link::Slow(delay) => {
                    drop(links);
                    self.slowed.fetch_add(bytes, Ordering::Relaxed);
                    thread::sleep(delay); // the fault itself
                    return true;
                }
                Link::Cut => {
                    if !counted {
                        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                        *held.entry(between).or_default() += bytes;
                        counted = true;
                    }
                    links = self.changed.wait(links).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Ends every connection that waits.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Under the lock: whoever has just looked at `closed` waits by now.
        drop(self.links.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// The proxy in front of one member. It ends with the process.
#[derive(Debug)]
pub struct Proxy {
    connections: Arc<Mutex<Vec<(Between, TcpStream)>>>,
}

impl Proxy {
    /// Listens on 127.0.0.1:`port` for what member `to` is sent, and passes it on to `target`.
    ///
    /// # Errors
    /// If the port cannot be listened on.
    pub fn start(network: Arc<Network>, to: u64, port: u16, target: u16) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let known = connections.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (network, known) = (network.clone(), known.clone());
                // A connection that cannot be made is closed, as by a member that does not listen.
                thread::spawn(move || drop(connect(&network, &known, client, to, target)));
            }
        });
        Ok(Proxy { connections })
    }

    /// Breaks the connections that use one of these links, in either direction.
    pub fn break_connections(&self, links: &[Between]) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|((from, to), stream)| {
            let concerned = links.contains(&(*from, *to)) || links.contains(&(*to, *from));
            if concerned {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            !concerned
        });
    }
}

fn connect(
    network: &Arc<Network>,
    known: &Mutex<Vec<(Between, TcpStream)>>,
    mut client: TcpStream,
    to: u64,
    target: u16,
) -> io::Result<()> {
    let head = read_head(&mut client)?;
    let from = sender(&head);
    if !network.pass((from, to), head.len() as u64) {
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, stream)| stream.peer_addr().is_ok());
        known.push(((from, to), client.try_clone()?));
        known.push(((from, to), server.try_clone()?));
    }
    server.write_all(&head)?;
    let (there, back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let other = network.clone();
    thread::spawn(move || pump(&other, (from, to), there.0, there.1));
    pump(network, (to, from), back.0, back.1);
    Ok(())
}

/// Everything up to the end of the first head, and what came with it.
fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 32 << 10 {
        let n = client.read(&mut piece)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..n]);
    }
    Ok(head)
}

/// The member that a request is from; 0 if it does not say.
fn sender(head: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(head);
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("kvd-from").then(|| value.trim().parse().ok())
    });
    value.flatten().unwrap_or(0)
}

fn pump(network: &Network, between: Between, mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut piece) {
        if n == 0 || !network.pass(between, n as u64) || to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    // Whatever ended it, both sides learn of it; either may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_tests::ports::Port;

    /// A server that sends back what it gets, and a connection to it of a client that says it is member 7.
    fn echo(network: &Arc<Network>) -> (Proxy, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut copy = stream.try_clone().unwrap();
            io::copy(&mut stream, &mut copy)
        });
        let port = Port::reserve();
        let proxy = Proxy::start(network.clone(), 1, port.number(), target).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", port.number())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nkvd-FROM: 7\r\n\r\n").unwrap();
        let mut back = [0; 31];
        client.read_exact(&mut back).unwrap();
        (proxy, client)
    }

    fn round(client: &mut TcpStream) -> io::Result<[u8; 3]> {
        client.write_all(b"abc")?;
        let mut back = [0; 3];
        client.read_exact(&mut back)?;
        Ok(back)
    }

    #[test]
    fn a_cut_link_holds_back_its_direction_alone_and_delivers_when_mended() {
        for link in [(7, 1), (1, 7)] {
            let network = Arc::new(Network::default());
            let (_proxy, mut client) = echo(&network);
            assert_eq!(&round(&mut client).unwrap(), b"abc");
            network.set([link], Link::Cut);
            client.write_all(b"xyz").unwrap();
            kvd_tests::wait_until("bytes meet the cut", Duration::from_secs(30), || {
                (network.held(link) == 3).then_some(())
            });
            assert_eq!(network.held((link.1, link.0)), 0);
            network.mend();
            let mut back = [0; 3];
            client.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"xyz");
        }
    }

    #[test]
    fn a_slow_link_counts_what_it_delays() {
        let network = Arc::new(Network::default());
        let (_proxy, mut client) = echo(&network);
        network.set([(7, 1)], Link::Slow(Duration::from_millis(1)));
        assert_eq!(&round(&mut client).unwrap(), b"abc");
        assert_eq!(network.slowed(), 3);
    }

    #[test]
    fn connections_of_a_link_are_broken_and_no_others() {
        let network = Arc::new(Network::default());
        let (proxy, mut client) = echo(&network);
        proxy.break_connections(&[(8, 1)]);
        assert_eq!(&round(&mut client).unwrap(), b"abc");
        proxy.break_connections(&[(1, 7)]);
        assert!(round(&mut client).is_err());
    }
}
