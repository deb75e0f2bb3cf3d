//! Snapshots that somebody asked for and waits for.
//!
//! A request is answered once a snapshot is on record that reaches the index which was applied when it arrived, whoever
//! had it taken, and however it came here.

use std::time::Duration;

use futures_channel::oneshot;

use crate::error::Error;

/// A request as it comes from a caller.
pub(crate) struct SnapshotRequest {
    pub(crate) timeout: Duration,
    pub(crate) reply: oneshot::Sender<Result<u64, Error>>,
}

struct Waiter {
    index: u64,
    deadline: Duration,
    reply: oneshot::Sender<Result<u64, Error>>,
}

/// Those who wait.
#[derive(Default)]
pub(crate) struct SnapshotRequests(Vec<Waiter>);

impl SnapshotRequests {
    /// Takes a request in, or answers that there are as many as there may be: `limit`.
    pub(crate) fn push(&mut self, request: SnapshotRequest, applied: u64, now: Duration, limit: usize) {
        if self.0.len() >= limit {
            // The caller may be gone; then nobody wants the answer. Likewise below.
            let _ = request.reply.send(Err(Error::Overloaded));
            return;
        }
        self.0.push(Waiter { index: applied, deadline: now + request.timeout, reply: request.reply });
    }

    /// The index that a snapshot must reach to answer everybody, if anybody waits.
    pub(crate) fn wanted(&self) -> Option<u64> {
        self.0.iter().map(|waiter| waiter.index).max()
    }

    /// The newest snapshot on record is the one at `index`.
    pub(crate) fn recorded(&mut self, index: u64) {
        for waiter in self.0.extract_if(.., |waiter| waiter.index <= index) {
            let _ = waiter.reply.send(Ok(index));
        }
    }

    /// Answers what is overdue.
    pub(crate) fn expire(&mut self, now: Duration) {
        let error = Error::Unknown { reason: "the snapshot is not on record yet" };
        for waiter in self.0.extract_if(.., |waiter| now >= waiter.deadline) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }

    /// Answers everybody.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        for waiter in self.0.drain(..) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }
}
