//! Reading a request's body, bounded while it is read.
//!
//! A body that came with its head is one frame and is used where it lies. A longer one is gathered; all bodies that are
//! being gathered share one budget, so that many slow clients cannot take more memory than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{EXPECT, HeaderMap};

use crate::connection::{Gauge, Phase};

/// How much of a body that is too long is read and thrown away, in bytes, so that a client which sends all of it before
/// it reads gets to read the refusal. Beyond that the connection is closed under it.
const DISCARD_BYTES: u64 = 8 << 20;

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum Error {
    /// It is longer than the limit; `declared` is its whole length where that is known.
    TooLong { declared: Option<u64> },
    /// Too many other bodies are being gathered.
    Overloaded,
    /// The client went away, or does not speak HTTP.
    Broken(hyper::Error),
}

/// The bytes that bodies may take while they are gathered.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Result<Taken, Error> {
        match self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)) {
            Ok(_) => Ok(Taken { budget: self.clone(), bytes }),
            Err(_) => Err(Error::Overloaded),
        }
    }
}

struct Taken {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Relaxed);
    }
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    limit: usize,
    gauge: &Gauge,
    budget: &Arc<Budget>,
) -> Result<Bytes, Error> {
    gauge.enter(Phase::Body);
    let read = gather(&mut body, limit, budget).await;
    // A client that expects "100 Continue" waits for our word before it sends anything.
    if matches!(read, Err(Error::TooLong { .. })) && !headers.contains_key(EXPECT) {
        discard(&mut body).await;
    }
    gauge.enter(Phase::Serving);
    read
}

async fn gather(body: &mut Incoming, limit: usize, budget: &Arc<Budget>) -> Result<Bytes, Error> {
    let declared = body.size_hint().exact();
    if declared.is_some_and(|declared| declared > limit as u64) {
        return Err(Error::TooLong { declared });
    }
    let Some(first) = data(body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    // Both are at most `limit`, so the cast loses nothing.
    let most = declared.map_or(limit, |declared| declared as usize);
    let _taken = budget.take(most)?;
    let mut gathered = BytesMut::from(first);
    loop {
        if gathered.len() > limit {
            return Err(Error::TooLong { declared: None });
        }
        let Some(next) = data(body).await? else { return Ok(gathered.freeze()) };
        gathered.extend_from_slice(&next);
    }
}

async fn data(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            // Trailers say nothing that matters here.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(Error::Broken(error)),
        }
    }
}

async fn discard(body: &mut Incoming) {
    let mut left = DISCARD_BYTES;
    if body.size_hint().lower() > left {
        return;
    }
    while let Ok(Some(data)) = data(body).await {
        match left.checked_sub(data.len() as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
