//! Sends a snapshot: one request on a connection of its own.
//!
//! The store is read on a thread of its own, a few bounded chunks ahead of the socket. The body has an announced length;
//! a store that gives less or more than it said, or an error, breaks the request off before its end, so the receiver
//! can never take a part for the whole.
//!
//! raft pauses a follower until it learns the fate of its snapshot, so [`Fate`] tells it on every way out: success,
//! failure, a member that is removed, a transport that stops, a task that is dropped.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Method, Request};
use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::codec::{TooLong, encode_frame};
use crate::dial::Exchange;
use crate::error::DialError;
use crate::handler::SNAPSHOT;
use crate::identity;
use crate::metrics::Path;
use crate::peer::Peer;
use crate::shared::Shared;

/// Chunks that are read ahead of the socket.
const QUEUED_CHUNKS: usize = 2;

/// Starts sending, or reports at once that another snapshot is on its way to the peer.
pub(crate) fn start(shared: &Arc<Shared>, peer: Arc<Peer>, message: Message) {
    if peer.sending_snapshot.swap(true, Ordering::Relaxed) {
        shared.handler.report_snapshot(peer.id, false);
        return;
    }
    let fate = Fate { shared: shared.clone(), peer, received: false };
    shared.spawn(run(fate, message));
}

async fn run(mut fate: Fate, message: Message) {
    let (shared, peer) = (fate.shared.clone(), fate.peer.clone());
    let metadata = message.get_snapshot().get_metadata();
    let (term, index) = (metadata.term, metadata.index);
    match peer.cancel.run_until_cancelled(transfer(&shared, &peer, message)).await {
        Some(Ok(())) => {
            fate.received = true;
            peer.metrics.sent(Path::Snapshot, 1);
            tracing::info!(peer = peer.id, term, index, "snapshot sent");
        }
        Some(Err(error)) => {
            if let SendError::Dial(error) = &error
                && error.is_gone()
            {
                shared.was_removed(peer.id, &error.to_string());
            }
            tracing::warn!(peer = peer.id, term, index, %error, "snapshot not sent");
        }
        None => tracing::debug!(peer = peer.id, term, index, "snapshot given up: stopping, or peer removed"),
    }
}

/// Reports how a snapshot ended, when it is dropped.
struct Fate {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    received: bool,
}

impl Drop for Fate {
    fn drop(&mut self) {
        self.peer.metrics.snapshot_sent(self.received);
        self.peer.sending_snapshot.store(false, Ordering::Relaxed);
        self.shared.handler.report_snapshot(self.peer.id, self.received);
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("cannot read the snapshot: {0}")]
    Store(#[source] io::Error),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the peer has no URL")]
    NoUrl,
    #[error("no progress for {0:?}")]
    Stalled(Duration),
    #[error("the peer did not confirm the snapshot within {0:?}")]
    Unconfirmed(Duration),
}

async fn transfer(shared: &Arc<Shared>, peer: &Peer, mut message: Message) -> Result<(), SendError> {
    let config = &shared.config;
    let metadata = message.get_snapshot().get_metadata();
    let (term, index) = (metadata.term, metadata.index);
    let store = shared.snapshots.clone();
    let (len, reader) = shared
        .spawn_blocking(move || store.open(term, index))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(SendError::Store)?;
    message.mut_snapshot().data = Bytes::new();
    let mut head = BytesMut::new();
    encode_frame(&message, config.max_frame_bytes, &mut head)?;

    let url = peer.url().ok_or(SendError::NoUrl)?;
    let mut exchange = Exchange::open(config, &url).await.inspect_err(|_| peer.unreachable(&url))?;

    let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS);
    let chunk_bytes = config.snapshot_chunk_bytes;
    // Not awaited here: it ends when the body, its other end, is dropped. Stop waits for it.
    drop(shared.spawn_blocking(move || read_chunks(reader, len, chunk_bytes, &chunks)));
    let progress = Arc::new(AtomicU64::new(0));
    let total = head.len() as u64 + len;
    let body = SnapshotBody {
        head: Some(head.freeze()),
        left: len,
        queue,
        progress: progress.clone(),
        sent_bytes: peer.metrics.sent_bytes.clone(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = identity::path(SNAPSHOT.to_owned());
    identity::write(request.headers_mut(), config.member_id, Some(config.cluster_id), Some(peer.id));

    let response = {
        let stall = config.snapshot_stall_timeout;
        let mut answer = std::pin::pin!(exchange.ask(request));
        let mut seen = 0;
        let mut confirming = Duration::ZERO;
        loop {
            if let Ok(response) = timeout(stall, answer.as_mut()).await {
                break response?;
            }
            let now = progress.load(Ordering::Relaxed);
            if now == total {
                confirming += stall;
                if confirming >= config.snapshot_install_timeout {
                    return Err(SendError::Unconfirmed(config.snapshot_install_timeout));
                }
            } else if now == std::mem::replace(&mut seen, now) {
                return Err(SendError::Stalled(stall));
            }
        }
    };
    exchange.accept(config, peer.id, response).await.map(drop)?;
    Ok(())
}

/// Reads exactly `len` bytes, and holds the last chunk back until the reader has ended there.
fn read_chunks(
    mut reader: Box<dyn Read + Send>,
    len: u64,
    chunk_bytes: usize,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut left = len;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(chunk_bytes);
        let mut chunk = vec![0; size];
        left -= size as u64;
        let result = reader.read_exact(&mut chunk).and_then(|()| match left {
            0 => expect_end(&mut reader),
            _ => Ok(()),
        });
        let failed = result.is_err();
        if chunks.blocking_send(result.map(|()| chunk.into())).is_err() || failed {
            return;
        }
    }
}

fn expect_end(reader: &mut dyn Read) -> io::Result<()> {
    loop {
        match reader.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the stored snapshot is longer than it said")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The message's frame, then the chunks.
struct SnapshotBody {
    head: Option<Bytes>,
    /// Bytes of the snapshot that are still to come.
    left: u64,
    queue: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes that hyper has taken.
    progress: Arc<AtomicU64>,
    sent_bytes: prometheus_client::metrics::counter::Counter,
}

impl Body for SnapshotBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let chunk = match this.head.take() {
            Some(head) => head,
            None if this.left == 0 => return Poll::Ready(None),
            None => match this.queue.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(chunk))) => {
                    this.left -= chunk.len() as u64;
                    chunk
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    return Poll::Ready(Some(Err(io::Error::other("the snapshot's reader is gone"))));
                }
            },
        };
        this.progress.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        this.sent_bytes.inc_by(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.head.as_ref().map_or(0, Bytes::len) as u64 + self.left)
    }
}
