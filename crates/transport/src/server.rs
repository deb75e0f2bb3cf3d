//! The peer listener: accepts connections, bounds them, and ends them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::handler;
use crate::shared::Shared;

/// Wait after a failed accept: out of descriptors, mostly, which closing connections mends.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a connection and the request on it know of each other.
#[derive(Debug)]
pub(crate) struct Link {
    /// Ends the connection at once.
    pub(crate) kill: CancellationToken,
    /// The connection carries a stream: a stop lets it write out what is queued.
    pub(crate) streaming: AtomicBool,
    /// Chunks that the stream has handed over. An idle stream has heartbeats, so this stands still only if the other
    /// side does not read.
    pub(crate) chunks: AtomicU64,
}

/// Accepts until the transport stops.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = shared.halt.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::select! {
                    () = shared.halt.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_RETRY) => continue,
                }
            }
        };
        match shared.connections.clone().try_acquire_owned() {
            Ok(permit) => shared.spawn(serve(shared.clone(), socket, permit)),
            Err(_) => {
                shared.metrics.connections_refused.inc();
                tracing::debug!(
                    limit = shared.config.max_connections,
                    "too many peer connections: one closed"
                );
            }
        }
    }
}

/// Serves a connection: one request, or the posts of a pipeline. Between two posts the deadline for a head applies.
async fn serve(shared: Arc<Shared>, socket: TcpStream, _permit: OwnedSemaphorePermit) {
    let _open = Open::new(&shared);
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a peer's connection is gone");
        return;
    }
    let link = Arc::new(Link {
        kill: shared.kill.child_token(),
        streaming: AtomicBool::new(false),
        chunks: AtomicU64::new(0),
    });
    let service = {
        let (shared, link) = (shared.clone(), link.clone());
        service_fn(move |request| {
            let (shared, link) = (shared.clone(), link.clone());
            async move { Ok::<_, Infallible>(handler::answer(shared, link, request).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.head_timeout)
        .max_buf_size(shared.config.max_head_bytes)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);

    let stall = shared.config.stream_timeout;
    let mut sweep = tokio::time::interval_at(Instant::now() + stall, stall);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut chunks = 0;
    let killed = link.kill.cancelled();
    let halted = shared.halt.cancelled();
    tokio::pin!(killed, halted);
    let mut halting = false;
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a peer's connection ended");
                }
                return;
            }
            () = killed.as_mut() => return,
            () = halted.as_mut(), if !halting => {
                if !link.streaming.load(Ordering::Relaxed) {
                    return;
                }
                halting = true;
            }
            _ = sweep.tick() => {
                let now = link.chunks.load(Ordering::Relaxed);
                if link.streaming.load(Ordering::Relaxed) && now == std::mem::replace(&mut chunks, now) {
                    tracing::debug!("a peer does not read its stream: closed");
                    return;
                }
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Open<'a> {
        shared.metrics.connections.inc();
        Open(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
