//! Accepting connections, and ending them.
//!
//! One task owns the listener and every connection's task. Each second it sweeps: connections that have been in a phase
//! for too long are closed (see [`crate::connection`]). At the end it drains: no more is accepted, connections between
//! two requests are closed, requests in flight are finished and answered with `Connection: close`, and what has not
//! ended by [`Options::drain`] is cut off. Then every task has been joined.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvd_kvstore::admin::Admin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::body::Budget;
use crate::connection::{Clock, Gauge, Gauged, Phase};
use crate::operations::Extras;
use crate::root;

/// Between two sweeps.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks, while draining, for connections that have become idle.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// After an `accept` that failed for want of file descriptors or memory, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a connection reads ahead at most, in bytes: a longer body comes in pieces of this size.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// What a connection beyond the bound is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 65\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    this member has as many connections as it takes: try again later\n";

/// The bounds of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Connections at one time; one more is told so and closed. 4096.
    pub connections: usize,
    /// Bytes of a request's head; beyond it the answer is 431. It has to hold a percent-encoded key, three times as long as
    /// the key. 32 KiB.
    pub head_bytes: usize,
    /// Bytes of all request bodies that are being read at one time and did not come with their heads; beyond it the
    /// answer is 429. 64 MiB.
    pub body_bytes: usize,
    /// From the first byte of a head to its last, in whole seconds. 10 s.
    pub head_timeout: Duration,
    /// From the end of a head to the end of its body, in whole seconds. 30 s.
    pub body_timeout: Duration,
    /// How long a client may take no byte of an answer, in whole seconds. 30 s.
    pub reply_timeout: Duration,
    /// How long a connection may be kept between two requests, in whole seconds. 75 s.
    pub idle_timeout: Duration,
    /// How long [`Server::shutdown`] waits for requests in flight: a little longer than they wait themselves. 6 s.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_bytes: 32 << 10,
            body_bytes: 64 << 20,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            drain: Duration::from_secs(6),
        }
    }
}

/// What the requests of one server share.
pub(crate) struct Shared<D> {
    pub(crate) door: D,
    pub(crate) extras: Extras,
    pub(crate) bodies: Arc<Budget>,
    clock: Arc<Clock>,
    draining: AtomicBool,
    /// One more than the second of the last successful linearizable read; 0 before the first.
    confirmed: AtomicU64,
}

impl<D> Shared<D> {
    /// A linearizable read has succeeded now.
    pub(crate) fn confirmed(&self) {
        self.confirmed.store(self.clock.seconds() + 1, Relaxed);
    }

    /// Seconds since the last successful linearizable read.
    pub(crate) fn seconds_since_confirmed(&self) -> Option<u64> {
        let confirmed = self.confirmed.load(Relaxed).checked_sub(1)?;
        Some(self.clock.seconds().saturating_sub(confirmed))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// What the requests of one connection share.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) gauge: Arc<Gauge>,
}

/// An HTTP door that is not open yet.
#[derive(Clone, Debug)]
pub struct HttpApi<D> {
    door: D,
    extras: Extras,
    options: Options,
}

impl<D: Admin> HttpApi<D> {
    /// A door to the store, with default [`Options`].
    #[must_use]
    pub fn new(door: D, extras: Extras) -> Self {
        Self { door, extras, options: Options::default() }
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
        let connections = Connections::new(self.door, self.extras, self.options);
        let task = tokio::spawn(connections.run(listener, stopped));
        Ok(Server { address, stop: Some(stop), task })
    }
}

/// An open HTTP door. Dropped without [`Server::shutdown`] it cuts everything off.
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
                tracing::error!(%error, "the HTTP door's task failed");
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
    options: Options,
    http: http1::Builder,
    tasks: JoinSet<()>,
    open: HashMap<Id, (Arc<Gauge>, AbortHandle)>,
}

impl<D: Admin> Connections<D> {
    fn new(door: D, extras: Extras, options: Options) -> Self {
        let shared = Arc::new(Shared {
            door,
            extras,
            bodies: Arc::new(Budget::new(options.body_bytes)),
            clock: Arc::default(),
            draining: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
        });
        let mut http = http1::Builder::new();
        // The sweep has hyper's timer's job; a client may close its half and still wants its answer.
        http.header_read_timeout(None).half_close(true);
        http.max_header_size(options.head_bytes).max_buf_size(options.head_bytes.max(READ_BUFFER_BYTES));
        Self { shared, options, http, tasks: JoinSet::new(), open: HashMap::new() }
    }

    async fn run(mut self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) -> Drained {
        let start = Instant::now();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Dropping the sender is the signal, too.
                _ = &mut stopped => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
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

    fn accept(&mut self, stream: TcpStream) {
        if self.open.len() >= self.options.connections {
            turn_away(stream);
            return;
        }
        // An answer is one write; waiting for more to send would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        self.add(stream);
    }

    fn add<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&mut self, stream: T) {
        let gauge = Arc::new(Gauge::new(self.shared.clock.clone()));
        let io = TokioIo::new(Gauged::new(stream, gauge.clone()));
        let (shared, connection) = (self.shared.clone(), Connection { gauge: gauge.clone() });
        let service = service_fn(move |request| {
            let (shared, connection) = (shared.clone(), connection.clone());
            async move {
                connection.gauge.enter(Phase::Serving);
                let mut answer = root::handle(&shared, &connection, request).await;
                if shared.is_draining() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                connection.gauge.enter(Phase::Replying);
                Ok::<_, Infallible>(answer)
            }
        });
        let served = self.http.serve_connection(io, service);
        let task = self.tasks.spawn(async move {
            if let Err(error) = served.await {
                // The client's doing, nearly always: it went away, or sent what is not HTTP.
                tracing::debug!(%error, "a connection ended early");
            }
        });
        self.open.insert(task.id(), (gauge, task));
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
    }

    /// Closes the connections that have been in their phase for too long.
    fn sweep(&self, seconds: u64) {
        self.shared.clock.set(seconds);
        for (gauge, task) in self.open.values() {
            let (phase, since) = gauge.phase();
            let limit = match phase {
                Phase::Idle => self.options.idle_timeout,
                Phase::Head => self.options.head_timeout,
                Phase::Body => self.options.body_timeout,
                Phase::Replying => self.options.reply_timeout,
                Phase::Serving => continue,
            };
            if seconds.saturating_sub(since) > limit.as_secs() {
                tracing::debug!(?phase, "a connection took too long and is closed");
                task.abort();
            }
        }
    }

    async fn drain(mut self) -> Drained {
        self.shared.draining.store(true, Relaxed);
        let deadline = Instant::now() + self.options.drain;
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
            if matches!(gauge.phase().0, Phase::Idle | Phase::Head) {
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

/// Tells a client that there is no room, as well as that goes without waiting for anything.
fn turn_away(stream: TcpStream) {
    let Ok(mut stream) = stream.into_std() else { return };
    // What has come is read so that the closing is not a reset, which could overtake the words. Failures of any of this
    // are the client's loss.
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write(FULL);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests;
