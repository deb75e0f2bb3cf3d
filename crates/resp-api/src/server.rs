//! Accepting connections, and ending them.
//!
//! One task owns the listener and every connection's task. Each second it sweeps: connections that have been in a phase
//! for too long are closed (see `gauge`). At the end it drains: no more is accepted, connections between two requests are
//! closed, what has been read is answered, and what has not ended by [`Options::drain`] is cut off. Then every task has
//! been joined.

use std::collections::HashMap;
use std::future::pending;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvd_kvstore::Door;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::connection;
use crate::cursors::Cursors;
use crate::gauge::{Clock, Gauge, Phase};
use crate::parse::Limits;

/// Between two sweeps.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks, while draining, for connections that have become idle.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// After an `accept` that failed for want of file descriptors or memory, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Silence after which the kernel asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// What a connection beyond the bound is told.
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";
/// A write under way counts as one more for each of these bytes that it has.
const BYTES_A_WRITE: usize = 8 << 10;
/// Replies to KEYS that are in memory at a time.
const LONG_REPLIES: usize = 4;

/// The bounds of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Connections at one time; one more is told so and closed. 4096.
    pub connections: usize,
    /// What a request may have. There are no passwords yet, so these hold from the first byte on.
    pub limits: Limits,
    /// Bytes of all requests that have begun and are not whole, beyond the first 16 KiB of each; a connection that goes over
    /// it is closed. 64 MiB.
    pub unfinished_bytes: usize,
    /// Commands of all connections that are under way, each counting one more for every 8 KiB that it has; beyond it
    /// connections wait. Less than the node takes, so that other doors find room. 6144.
    pub in_flight: usize,
    /// Bytes of one reply to KEYS; a longer one is refused. There are at most four of them in memory. 64 MiB.
    pub reply_bytes: usize,
    /// From the first byte of a request to its last, in whole seconds. 30 s.
    pub request_timeout: Duration,
    /// How long a client may take no byte of a reply, in whole seconds. 30 s.
    pub reply_timeout: Duration,
    /// How long [`Server::shutdown`] waits for requests in flight: a little longer than they wait themselves. 6 s.
    pub drain: Duration,
    /// Whether JOIN, LEAVE and SNAPSHOT are taken from other machines, too. No.
    pub admin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4096,
            limits: Limits::default(),
            unfinished_bytes: 64 << 20,
            in_flight: 6144,
            reply_bytes: 64 << 20,
            request_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(6),
            admin: false,
        }
    }
}

/// Bytes that are held by many, and bounded for all of them together.
#[derive(Debug)]
pub(crate) struct Budget {
    free: AtomicUsize,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes) }
    }

    /// A share of nothing yet.
    pub(crate) fn hold(&self) -> Share<'_> {
        Share { budget: self, bytes: 0 }
    }
}

/// One holder's share of a [`Budget`], given back when it goes.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Share<'_> {
    /// Makes the share `bytes` large; `false`, and no change, if there is not as much.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let (free, more) = (&self.budget.free, bytes.saturating_sub(self.bytes));
        if more > 0 && free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(more)).is_err() {
            return false;
        }
        if bytes < self.bytes {
            free.fetch_add(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Relaxed);
    }
}

/// What the connections of one server share.
pub(crate) struct Shared<D> {
    pub(crate) door: D,
    pub(crate) options: Options,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<Clock>,
    pub(crate) in_flight: Semaphore,
    pub(crate) long_replies: Semaphore,
    pub(crate) unfinished: Budget,
    pub(crate) next_client: AtomicU64,
    pub(crate) connected: AtomicUsize,
    cursors: Mutex<Cursors>,
    draining: AtomicBool,
}

impl<D> Shared<D> {
    fn new(door: D, options: Options, address: SocketAddr) -> Self {
        Self {
            door,
            options,
            address,
            clock: Arc::default(),
            in_flight: Semaphore::new(options.in_flight),
            long_replies: Semaphore::new(LONG_REPLIES),
            unfinished: Budget::new(options.unfinished_bytes),
            next_client: AtomicU64::new(1),
            connected: AtomicUsize::new(0),
            cursors: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// What a write of that many bytes counts among those under way; never more than there may be.
    pub(crate) fn weight(&self, bytes: usize) -> u32 {
        let weight = (1 + bytes / BYTES_A_WRITE).min(self.options.in_flight);
        u32::try_from(weight).unwrap_or(u32::MAX)
    }

    /// The key behind which a scan goes on.
    pub(crate) fn position(&self, cursor: u64) -> Option<Bytes> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).position(cursor)
    }

    /// The cursor for going on behind `key`.
    pub(crate) fn give_out_cursor(&self, key: &[u8]) -> u64 {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).give_out(key)
    }
}

/// A Redis door that is not open yet.
#[derive(Clone, Debug)]
pub struct RespApi<D> {
    door: D,
    options: Options,
}

impl<D: Door> RespApi<D> {
    /// A door to the store, with default [`Options`].
    #[must_use]
    pub fn new(door: D) -> Self {
        Self { door, options: Options::default() }
    }

    /// The same door with other bounds.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Serves what `listener` accepts, in tasks of the current tokio runtime, until [`Server::shutdown`].
    ///
    /// # Errors
    /// If the listener has no address.
    ///
    /// # Panics
    /// Outside a tokio runtime that has its I/O and time drivers enabled.
    pub fn serve(self, listener: TcpListener) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::new(Shared::new(self.door, self.options, address));
        let connections = Connections { shared, tasks: JoinSet::new(), open: HashMap::new() };
        let task = tokio::spawn(connections.run(listener, stopped));
        Ok(Server { address, stop: Some(stop), task })
    }
}

/// An open Redis door. Dropped without [`Server::shutdown`] it cuts everything off.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

/// How the connections of a door ended that were open at its shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Ended by themselves or between two requests.
    pub finished: usize,
    /// Cut off in a request that had no answer in time.
    pub cut_off: usize,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets requests in flight finish within [`Options::drain`], and returns when no task is left.
    /// To make requests fail sooner, stop the node meanwhile.
    pub async fn shutdown(mut self) -> Drained {
        self.stop = None;
        match (&mut self.task).await {
            Ok(drained) => drained,
            Err(error) => {
                tracing::error!(%error, "the Redis door's task failed");
                Drained::default()
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections' tasks, and their one owner.
struct Connections<D> {
    shared: Arc<Shared<D>>,
    tasks: JoinSet<()>,
    open: HashMap<Id, (Arc<Gauge>, AbortHandle)>,
}

impl<D: Door> Connections<D> {
    async fn run(mut self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) -> Drained {
        let start = Instant::now();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Dropping the sender is the signal, too.
                _ = &mut stopped => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.accept(stream, address),
                    Err(error) => {
                        if is_exhaustion(&error) {
                            tracing::warn!(%error, "cannot accept connections; trying again");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                },
                ended = next(&mut self.tasks) => self.ended(ended),
                _ = sweep.tick() => self.sweep(start.elapsed().as_secs()),
            }
        }
        drop(listener);
        self.drain().await
    }

    fn accept(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.open.len() >= self.shared.options.connections {
            turn_away(stream);
            return;
        }
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        self.add(stream, Some(address));
    }

    fn add<T>(&mut self, stream: T, address: Option<SocketAddr>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gauge = Arc::new(Gauge::new(self.shared.clock.clone()));
        let served = connection::run(self.shared.clone(), stream, gauge.clone(), address);
        let task = self.tasks.spawn(async move {
            if let Err(error) = served.await {
                // The client's doing: it went away.
                tracing::debug!(%error, "a connection ended early");
            }
        });
        self.open.insert(task.id(), (gauge, task));
        self.shared.connected.store(self.open.len(), Relaxed);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a request panicked; its connection is closed");
                }
                error.id()
            }
        };
        self.open.remove(&id);
        self.shared.connected.store(self.open.len(), Relaxed);
    }

    /// Closes the connections that have been in their phase for too long.
    fn sweep(&self, seconds: u64) {
        self.shared.clock.set(seconds);
        for (gauge, task) in self.open.values() {
            let (phase, since) = gauge.phase();
            let limit = match phase {
                Phase::Partial => self.shared.options.request_timeout,
                Phase::Replying => self.shared.options.reply_timeout,
                Phase::Idle | Phase::Serving => continue,
            };
            if seconds.saturating_sub(since) > limit.as_secs() {
                tracing::debug!(?phase, "a connection took too long and is closed");
                task.abort();
            }
        }
    }

    async fn drain(mut self) -> Drained {
        self.shared.draining.store(true, Relaxed);
        let deadline = Instant::now() + self.shared.options.drain;
        let open = self.open.len();
        let mut look = interval(DRAIN_LOOK);
        loop {
            tokio::select! {
                ended = self.tasks.join_next_with_id() => match ended {
                    Some(ended) => self.ended(ended),
                    None => return Drained { finished: open, cut_off: 0 },
                },
                _ = look.tick() => self.close_idle(),
                () = sleep_until(deadline) => break,
            }
        }
        let cut_off = self.open.len();
        self.tasks.shutdown().await;
        Drained { finished: open - cut_off, cut_off }
    }

    /// Closes connections on which no whole request has come.
    fn close_idle(&self) {
        for (gauge, task) in self.open.values() {
            if matches!(gauge.phase().0, Phase::Idle | Phase::Partial) {
                task.abort();
            }
        }
    }
}

/// The next task to end; never, while there is none.
async fn next(tasks: &mut JoinSet<()>) -> Result<(Id, ()), JoinError> {
    match tasks.join_next_with_id().await {
        Some(ended) => ended,
        None => pending().await,
    }
}

/// Whether it may help to wait before the next `accept`. Other errors are those of a connection that was already gone.
fn is_exhaustion(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Replies are one write; waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    // Clients may be silent for as long as they like, but not dead.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    Ok(())
}

/// Tells a client that there is no room, as well as that goes without waiting for anything.
fn turn_away(stream: TcpStream) {
    let Ok(mut stream) = stream.into_std() else { return };
    // Failures are the client's loss.
    let _ = stream.write(FULL);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests;
