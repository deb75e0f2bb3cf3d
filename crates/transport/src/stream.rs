//! The body of an answered stream request: what goes out to the peer that dialled.
//!
//! hyper polls the body when the socket takes more, and writes what it gets until the body has nothing more. What is
//! queued is encoded at once into one chunk (and one for each lot of long entries), so that a burst is one write; nothing is encoded for a peer that does not read. An idle body yields a heartbeat frame.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior};

use crate::codec::HEARTBEAT;
use crate::metrics::{DropReason, Path};
use crate::order::Place;
use crate::outbox::{Class, Taken};
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::server::Link;
use crate::shared::Shared;

/// Capacity that a stream's buffer keeps after a large chunk, in bytes.
const KEPT_BYTES: usize = 256 << 10;

/// An endless body of frames.
#[derive(Debug)]
pub(crate) struct OutStream {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    class: Class,
    generation: u64,
    link: Arc<Link>,
    batch: VecDeque<Outgoing>,
    buffer: BytesMut,
    /// Encoded, and not yet taken by hyper.
    chunks: VecDeque<Bytes>,
    beat: Interval,
    /// A chunk was written since the last tick of `beat`.
    busy: bool,
}

impl OutStream {
    /// Attaches a stream to the peer's outbox. `None`: the peer is going.
    pub(crate) fn attach(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        class: Class,
        link: Arc<Link>,
    ) -> Option<OutStream> {
        let (generation, replaced) = peer.outbox(class).attach(link.kill.clone())?;
        link.streaming.store(true, Ordering::Relaxed);
        tracing::debug!(peer = peer.id, stream = class.name(), replaced, "stream attached");
        peer.metrics.stream(class, true);
        if replaced {
            shared.handler.report_unreachable(peer.id);
        }
        // The peer is up: whatever the last dial to it found, the next may succeed.
        peer.kick.notify_waiters();
        let mut beat = tokio::time::interval(shared.config.heartbeat_interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(OutStream {
            shared,
            peer,
            class,
            generation,
            link,
            batch: VecDeque::new(),
            buffer: BytesMut::new(),
            chunks: VecDeque::new(),
            beat,
            busy: false,
        })
    }

    /// Where in the order of its class the stream is.
    pub(crate) fn place(&self) -> Place {
        Place { boot: self.shared.boot, number: self.generation }
    }

    /// Encodes the batch to chunks; to none if every message of it was too large.
    fn encode(&mut self) {
        let max = self.shared.config.max_frame_bytes;
        let (all, mut too_large) = (self.batch.len(), 0);
        for outgoing in self.batch.drain(..) {
            if let Err(error) = outgoing.encode(max, &mut self.buffer, &mut self.chunks) {
                tracing::warn!(peer = self.peer.id, %error, "message dropped");
                too_large += 1;
            }
        }
        self.peer.metrics.sent(Path::of(self.class), all - too_large);
        if too_large > 0 {
            self.peer.metrics.dropped(DropReason::TooLarge, too_large);
            self.shared.handler.report_unreachable(self.peer.id);
        }
        if !self.buffer.is_empty() {
            let chunk = self.buffer.split().freeze();
            if chunk.len() > KEPT_BYTES {
                self.buffer = BytesMut::new();
            }
            self.chunks.push_back(chunk);
        }
    }

    fn chunk(&mut self, chunk: Bytes) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.link.chunks.fetch_add(1, Ordering::Relaxed);
        self.peer.metrics.sent_bytes.inc_by(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

impl Body for OutStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = this.chunks.pop_front() {
                this.busy = true;
                return this.chunk(chunk);
            }
            let max = this.shared.config.write_bytes;
            match this.peer.outbox(this.class).take(this.generation, &mut this.batch, max, cx) {
                Taken::Ended => return Poll::Ready(None),
                Taken::Nothing => break,
                Taken::Some => this.encode(),
            }
        }
        while this.beat.poll_tick(cx).is_ready() {
            if !std::mem::take(&mut this.busy) {
                return this.chunk(Bytes::from_static(&HEARTBEAT));
            }
        }
        Poll::Pending
    }
}

impl Drop for OutStream {
    fn drop(&mut self) {
        let Some((dropped, report)) = self.peer.outbox(self.class).detach(self.generation) else {
            return;
        };
        tracing::debug!(peer = self.peer.id, stream = self.class.name(), dropped, "stream detached");
        self.peer.metrics.stream(self.class, false);
        self.peer.metrics.dropped(DropReason::NoStream, dropped);
        if report {
            self.shared.handler.report_unreachable(self.peer.id);
        }
    }
}

/// The body of any answer of the peer listener.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// All of it, at once.
    Whole(Option<Bytes>),
    /// Frames, until the stream ends.
    Stream(Box<OutStream>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ResponseBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Stream(stream) => Pin::new(&mut **stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }
}
