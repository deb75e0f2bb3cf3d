//! A harness for clusters of real `kvd` processes on this machine.
//!
//! - [`kvd`] and [`kvctl`] are the binaries under test, built once for each test process.
//! - [`Cluster`] is a directory, a list of peer URLs and its [`Member`]s; a member is one process at a time.
//! - [`http::Client`] is a blocking HTTP/1.1 client that never retries, so that a test knows what was acknowledged.
//! - [`resp::Connection`] is a client for Redis's protocol that shows replies as they come.
//! - [`Writers`] are threads that write as fast as they can and remember what was acknowledged.
//!
//! What the harness guarantees: ports come from the kernel and stay reserved while a test lives ([`ports`]); nothing
//! waits for a length of time, only for a condition and at most until a deadline ([`wait_until`]); a process that the
//! harness started is ended by it, whatever happens to the test; when a test fails, the end of every member's log is
//! printed.

// A harness reports by panicking: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod binary;
mod cluster;
pub mod http;
mod load;
mod member;
pub mod ports;
pub mod resp;

use std::time::{Duration, Instant};

pub use binary::{kvctl, kvd, kvd_with_failpoints};
pub use cluster::Cluster;
pub use load::{History, Writers};
pub use member::{Member, Refused, command, directory_contents, refused, refused_with_env};

/// Longest wait for anything that a healthy member does on a busy machine: start, elect, catch up, end.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` yields a value, looking every 10 ms; panics with `what` once `deadline` has passed.
pub fn wait_until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
