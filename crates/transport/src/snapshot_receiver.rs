//! Takes in a snapshot: `POST /raft/snapshot`.
//!
//! ```text
//! body = frame of a MsgSnapshot without data | bytes of the snapshot file, to the end
//! ```
//!
//! The length is announced in `Content-Length`; a body of unknown length is refused, for its end could not be told from
//! a cut. The store is driven on a thread of its own, fed through a short queue, so that the event loop never waits for
//! the disk. Only after the store has verified the file and made it durable is the message delivered and 204 answered.
//! In every other case the sink is dropped, which leaves no file.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::{Request, StatusCode};
use kvd_raftpb::codec::decode_message;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::codec::{Decoder, Frame};
use crate::identity::{self, Refusal};
use crate::metrics::Path;
use crate::peer::Peer;
use crate::shared::Shared;

/// Chunks between the socket and the disk. Each is one read of the socket, at most `max_head_bytes` long.
const QUEUED_CHUNKS: usize = 16;

enum Step {
    Write(Bytes),
    Install,
}

pub(crate) async fn receive(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<(), Refusal> {
    let from = identity::check(request.headers(), shared.config.member_id, shared.config.cluster_id)?;
    let peer = shared.member(from)?;
    if request.body().size_hint().exact().is_none() {
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "a snapshot needs a Content-Length"));
    }
    let Ok(only) = shared.receiving.clone().try_acquire_owned() else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "another snapshot is being received"));
    };
    let result = tokio::select! {
        result = transfer(shared, &peer, request.into_body(), only) => result,
        () = peer.cancel.cancelled() => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this member is stopping, or you were removed"))
        }
    };
    peer.metrics.snapshot_received(result.is_ok());
    let message = result?;
    let metadata = message.get_snapshot().get_metadata();
    tracing::info!(peer = from, term = metadata.term, index = metadata.index, "snapshot received");
    peer.metrics.received(Path::Snapshot);
    shared.handler.deliver(from, message);
    Ok(())
}

async fn transfer(
    shared: &Arc<Shared>,
    peer: &Peer,
    body: Incoming,
    only: OwnedSemaphorePermit,
) -> Result<Message, Refusal> {
    let mut source = Source { shared, peer, body };
    let (message, rest) = source.head().await?;
    let metadata = message.get_snapshot().get_metadata();
    let (term, index) = (metadata.term, metadata.index);

    let (steps, queue) = mpsc::channel(QUEUED_CHUNKS);
    let store = shared.snapshots.clone();
    let disk = shared.spawn_blocking(move || -> io::Result<()> {
        // Held until the sink is gone, even if the connection breaks before: no second sink meets the first.
        let _only = only;
        let mut queue = queue;
        let mut sink = store.receive(term, index)?;
        loop {
            match queue.blocking_recv() {
                Some(Step::Write(chunk)) => sink.write_all(&chunk)?,
                Some(Step::Install) => return sink.install(),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer was cut")),
            }
        }
    });
    // A send fails once the disk's side has failed: its error is the one to tell.
    let fed = async {
        if !rest.is_empty() && steps.send(Step::Write(rest)).await.is_err() {
            return Ok(());
        }
        while let Some(chunk) = source.chunk().await? {
            if steps.send(Step::Write(chunk)).await.is_err() {
                return Ok(());
            }
        }
        let _ = steps.send(Step::Install).await;
        Ok(())
    }
    .await;
    drop(steps);
    let stored = disk.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    fed?;
    stored.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("snapshot not stored: {error}"))
    })?;
    Ok(message)
}

/// The body of the request, with a deadline on each chunk.
struct Source<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    body: Incoming,
}

impl Source<'_> {
    /// The next chunk; `None` at the announced end. hyper makes an error of an end before it.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let limit = self.shared.config.snapshot_stall_timeout;
            let frame = match tokio::time::timeout(limit, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(Refusal::new(
                        StatusCode::BAD_REQUEST,
                        format!("snapshot cut short: {error}"),
                    ));
                }
                Err(_) => {
                    return Err(Refusal::new(
                        StatusCode::REQUEST_TIMEOUT,
                        format!("no byte of the snapshot for {limit:?}"),
                    ));
                }
            };
            if let Ok(chunk) = frame.into_data() {
                self.peer.metrics.received_bytes.inc_by(chunk.len() as u64);
                return Ok(Some(chunk));
            }
        }
    }

    /// The message at the head of the body, and the bytes of the snapshot that came with it.
    async fn head(&mut self) -> Result<(Message, Bytes), Refusal> {
        let bad = |reason| Refusal::new(StatusCode::BAD_REQUEST, reason);
        let mut decoder = Decoder::new(self.shared.config.max_frame_bytes);
        while let Some(mut chunk) = self.chunk().await? {
            let frame = decoder
                .next(&mut chunk)
                .map_err(|error| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
            let bytes = match frame {
                None => continue,
                Some(Frame::Heartbeat) => return Err(bad("the snapshot's message is empty".to_owned())),
                Some(Frame::Message(bytes)) => bytes,
            };
            let message = decode_message(bytes).map_err(|error| bad(error.to_string()))?;
            self.check(&message).map_err(|reason| bad(reason.to_owned()))?;
            return Ok((message, chunk));
        }
        Err(bad("the body ends within the snapshot's message".to_owned()))
    }

    fn check(&self, message: &Message) -> Result<(), &'static str> {
        let metadata = message.get_snapshot().get_metadata();
        if message.get_msg_type() != MessageType::MsgSnapshot {
            Err("the message is not a MsgSnapshot")
        } else if message.from != self.peer.id {
            Err("the message is from another member than its connection")
        } else if message.to != self.shared.config.member_id {
            Err("the message is for another member")
        } else if metadata.term == 0 || metadata.index == 0 {
            Err("the snapshot has no term or no index")
        } else if !message.get_snapshot().data.is_empty() {
            Err("the message carries the snapshot's data, which belongs behind it")
        } else {
            Ok(())
        }
    }
}
