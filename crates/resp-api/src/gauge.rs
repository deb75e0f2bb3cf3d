//! What a connection waits for, and since when.
//!
//! A timer for each request would cost throughput. Instead each connection notes, in one atomic word, which phase it is in
//! and the second in which that began; once a second one sweep over all connections closes those that have been in a phase
//! for longer than it may last. A deadline of n seconds is thus kept to within n + 1.
//!
//! ```text
//!          first bytes             a request is whole
//! Idle ─────────────────> Partial ───────────────────> Serving <──> Replying
//!   ^                        ^                            │     (each write that gets on begins it anew)
//!   └────────────────────────┴────────────────────────────┘
//! ```
//!
//! `Idle` and `Serving` have no bound here: clients keep connections for as long as they run, and the store answers every
//! request by a deadline of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Phase {
    /// For the client to begin a request.
    Idle = 0,
    /// For the rest of a request.
    Partial = 1,
    /// For the store.
    Serving = 2,
    /// For the client to take replies.
    Replying = 3,
}

const PHASE_BITS: u32 = 2;

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
            1 => Phase::Partial,
            2 => Phase::Serving,
            _ => Phase::Replying,
        };
        (phase, word >> PHASE_BITS)
    }
}
