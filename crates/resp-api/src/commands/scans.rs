//! Reads of all keys.
//!
//! They look at a clone of the store, which costs nothing and does not change, and let others go on every so often: a
//! member leads while it scans.

use std::io;

use bytes::Bytes;
use kvd_kvstore::txn::parse_number;
use kvd_kvstore::{Door, Error};
use tokio::io::AsyncWrite;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::connection::Session;
use crate::errors::{self, NOT_AN_INTEGER, SYNTAX};
use crate::glob;
use crate::parse::Request;
use crate::reply::Replies;

/// The longest pattern, in bytes. With the longest key it takes some milliseconds.
const PATTERN_BYTES: usize = 1 << 10;
/// Steps of a pattern's match, each key counting as [`STEPS_A_KEY`] more, after which others go on: a quarter of a
/// millisecond.
const STEPS: usize = 100_000;
const STEPS_A_KEY: usize = 100;
/// The most keys that one SCAN looks at, whatever COUNT says.
const SCAN_KEYS: usize = 10_000;
/// The longest reply to SCAN, in bytes; when it is reached the scan goes on with the next call.
const SCAN_BYTES: usize = 1 << 20;

/// What a scan is asked for.
struct Scan {
    pattern: Option<Bytes>,
    count: usize,
    /// `TYPE` names another type than the one there is.
    nothing: bool,
}

/// Counts work, and lets others go on.
#[derive(Default)]
struct Pace {
    steps: usize,
}

impl Pace {
    fn matches(&mut self, pattern: Option<&[u8]>, key: &[u8]) -> bool {
        self.steps += STEPS_A_KEY;
        pattern.is_none_or(|pattern| glob::matches(pattern, key, &mut self.steps))
    }

    async fn keep(&mut self) {
        if self.steps >= STEPS {
            self.steps = 0;
            yield_now().await;
        }
    }
}

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    pub(crate) async fn dbsize(&mut self) {
        match self.become_current().await {
            Ok(()) => {
                let keys = self.shared.door.local().len();
                self.link.replies.count(keys);
            }
            Err(error) => self.link.replies.error(&errors::words(&error)),
        }
    }

    pub(crate) async fn keys(&mut self, request: &Request<'_>) -> io::Result<()> {
        let shared = self.shared.clone();
        // Held until the reply is sent: it may be long, and so few are in memory at a time.
        let Ok(Ok(_permit)) = timeout(shared.options.reply_timeout, shared.long_replies.acquire()).await
        else {
            self.link.replies.error(&errors::words(&Error::Overloaded));
            return Ok(());
        };
        match self.find_keys(request.get(1)).await {
            Ok((count, found)) => {
                self.link.replies.array(count);
                self.link.flush().await?;
                self.link.replies.bytes = found.bytes;
                self.link.flush().await?;
            }
            Err(words) => self.link.replies.error(&words),
        }
        Ok(())
    }

    async fn find_keys(&mut self, pattern: &[u8]) -> Result<(usize, Replies), String> {
        check_pattern(pattern)?;
        self.become_current().await.map_err(|error| errors::words(&error))?;
        let store = self.shared.door.local().clone();
        let limit = self.shared.options.reply_bytes;
        let (mut count, mut found, mut pace) = (0, Replies::default(), Pace::default());
        for (key, _) in store.iter() {
            if pace.matches(Some(pattern), key) {
                count += 1;
                found.bulk(key);
                if found.bytes.len() > limit {
                    return Err(format!("ERR the reply would have more than {limit} bytes; use SCAN"));
                }
            }
            pace.keep().await;
        }
        Ok((count, found))
    }

    pub(crate) async fn scan(&mut self, request: &Request<'_>) {
        match self.scan_keys(request).await {
            Ok((cursor, count, found)) => {
                self.link.replies.array(2);
                self.link.replies.bulk(cursor.to_string().as_bytes());
                self.link.replies.array(count);
                self.link.replies.bytes.unsplit(found.bytes);
            }
            Err(words) => self.link.replies.error(&words),
        }
    }

    async fn scan_keys(&mut self, request: &Request<'_>) -> Result<(u64, usize, Replies), String> {
        let cursor = std::str::from_utf8(request.get(1)).ok().and_then(|cursor| cursor.parse::<u64>().ok());
        let cursor = cursor.ok_or("ERR invalid cursor")?;
        let scan = Scan::read(request)?;
        let after = match cursor {
            0 => None,
            cursor => Some(self.shared.position(cursor).ok_or(
                "ERR invalid cursor: it is another member's, or too old to be remembered; begin again with SCAN 0",
            )?),
        };
        self.become_current().await.map_err(|error| errors::words(&error))?;
        let store = self.shared.door.local().clone();
        let (mut count, mut found, mut pace) = (0, Replies::default(), Pace::default());
        let mut seen = 0;
        // No key is empty, so they all stand behind the empty one.
        for (key, _) in store.iter_after(after.as_deref().unwrap_or_default()) {
            if !scan.nothing && pace.matches(scan.pattern.as_deref(), key) {
                count += 1;
                found.bulk(key);
            }
            seen += 1;
            if seen == scan.count || found.bytes.len() >= SCAN_BYTES {
                let is_last = store.iter_after(key).next().is_none();
                let cursor = if is_last { 0 } else { self.shared.give_out_cursor(key) };
                return Ok((cursor, count, found));
            }
            pace.keep().await;
        }
        Ok((0, count, found))
    }
}

impl Scan {
    fn read(request: &Request<'_>) -> Result<Self, String> {
        let mut scan = Self { pattern: None, count: 10, nothing: false };
        let mut at = 2;
        while at < request.len() {
            let (option, value) = (request.get(at), request.get(at + 1));
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes()) && at + 1 < request.len();
            if is("count") {
                let count = parse_number(value).ok_or(NOT_AN_INTEGER)?;
                if count < 1 {
                    return Err(SYNTAX.into());
                }
                scan.count = usize::try_from(count).map_or(SCAN_KEYS, |count| count.min(SCAN_KEYS));
            } else if is("match") {
                check_pattern(value)?;
                scan.pattern = Some(request.keep(at + 1)).filter(|pattern| pattern != "*");
            } else if is("type") {
                scan.nothing = !value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(SYNTAX.into());
            }
            at += 2;
        }
        Ok(scan)
    }
}

fn check_pattern(pattern: &[u8]) -> Result<(), String> {
    match pattern.len() {
        len if len > PATTERN_BYTES => {
            Err(format!("ERR the pattern has {len} bytes and may have at most {PATTERN_BYTES}"))
        }
        _ => Ok(()),
    }
}
