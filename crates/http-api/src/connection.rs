//! What a connection waits for, and since when.
//!
//! A timer for each request costs a tenth of the throughput. Instead each connection notes, in one atomic word, which
//! phase it is in and the second in which that began; once a second a single sweep over all connections closes those
//! that have been in a phase for longer than it may last. A deadline of n seconds is thus kept to within n + 1.
//!
//! ```text
//!          first byte          head is whole         body is whole
//! Idle ───────────────> Head ───────────────> Body ───────────────> Serving
//!   ^                                                                  │ answer is known
//!   └──────────────────────────── Replying <───────────────────────────┘
//!          answer is flushed         (each write that gets on begins it anew)
//! ```
//!
//! `Serving` has no bound here: the store answers every request by a deadline of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Phase {
    /// For the client to begin a request.
    Idle = 0,
    /// For the rest of a request's head.
    Head = 1,
    /// For the rest of a request's body.
    Body = 2,
    /// For the store.
    Serving = 3,
    /// For the client to take the answer.
    Replying = 4,
}

const PHASE_BITS: u32 = 3;

/// Seconds since the server began, as of the last sweep.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn seconds(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Relaxed);
    }
}

/// The phase of one connection: written by its task, read by the sweep.
#[derive(Debug)]
pub(crate) struct Gauge {
    /// `seconds << PHASE_BITS | phase`.
    word: AtomicU64,
    clock: Arc<Clock>,
}

impl Gauge {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        let gauge = Self { word: AtomicU64::new(0), clock };
        gauge.enter(Phase::Idle);
        gauge
    }

    /// Begins a phase, now.
    pub(crate) fn enter(&self, phase: Phase) {
        self.word.store(self.clock.seconds() << PHASE_BITS | phase as u64, Relaxed);
    }

    /// The phase, and the second in which it began.
    pub(crate) fn phase(&self) -> (Phase, u64) {
        let word = self.word.load(Relaxed);
        let phase = match word & ((1 << PHASE_BITS) - 1) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Body,
            3 => Phase::Serving,
            _ => Phase::Replying,
        };
        (phase, word >> PHASE_BITS)
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase().0 == phase
    }
}

/// A connection's stream that keeps its gauge.
#[derive(Debug)]
pub(crate) struct Gauged<T> {
    stream: T,
    gauge: Arc<Gauge>,
}

impl<T> Gauged<T> {
    pub(crate) fn new(stream: T, gauge: Arc<Gauge>) -> Self {
        Self { stream, gauge }
    }

    fn wrote(&self, bytes: usize) -> Poll<io::Result<usize>> {
        if bytes > 0 && self.gauge.is(Phase::Replying) {
            self.gauge.enter(Phase::Replying);
        }
        Poll::Ready(Ok(bytes))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gauged<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.gauge.is(Phase::Idle) {
            self.gauge.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gauged<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote(bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.wrote(bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once the whole answer is in its buffer, and this is called when that buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.gauge.is(Phase::Replying) {
            self.gauge.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
