//! Failpoints: named places at the edges of what is durable, at which a test ends the process.
//!
//! `failpoint!("wal-before-append")` does nothing, and compiles to nothing, unless the crate is built with the feature
//! `failpoints`. Then the environment variable `KVD_FAILPOINT=NAME:N` makes the N-th arrival at that place (N from 1)
//! end the process at once, as SIGKILL would, after a line on stderr. Release builds do not have the feature; whoever
//! turns it on builds another program, `kvd-failpoints`.
//!
//! [`ALL`] lists the places, so that a test can visit each of them and notice one that is never reached.

/// Every failpoint: what was just done, or is about to be done, where the process ends.
pub const ALL: &[&str] = &[
    // A member's first start, in order.
    "begin-before-snapshot",
    "begin-before-log",
    "begin-after-log",
    "boot-before-sync",
    "boot-before-rename",
    "boot-after-rename",
    "boot-after-sync",
    // Creating and opening a log.
    "wal-create-before-write",
    "wal-create-before-rename",
    "wal-create-after-rename",
    "wal-create-after-sync",
    "wal-open-before-rewrite",
    "wal-open-after-rewrite",
    // Segments.
    "wal-prepare-before-sync",
    "wal-prepare-after-sync",
    "wal-cut-before-head",
    "wal-cut-before-rename",
    "wal-cut-after-rename",
    "wal-cut-after-sync",
    "wal-release-before-rename",
    "wal-release-after-rename",
    "wal-release-after-sync",
    // Appending.
    "wal-before-append",
    "wal-after-append",
    // Snapshot files.
    "snap-before-create",
    "snap-before-sync",
    "snap-before-rename",
    "snap-after-rename",
    "snap-after-sync",
    "snap-before-remove",
    "snap-after-remove",
    // The Ready loop.
    "save-before",
    "save-after",
    "send-before",
    "send-after",
    "apply-before",
    "apply-after",
    "snapshot-before-record",
    "install-before",
    "install-after",
];

/// A place at which a test may end the process; see [`mod@crate::failpoint`]. Does nothing in ordinary builds.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}

/// A place at which a test may end the process; see [`mod@crate::failpoint`].
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::arrive($name)
    };
}

/// Counts an arrival, and ends the process if it is the one that `KVD_FAILPOINT` names.
///
/// # Panics
/// If [`ALL`] does not list the name, or the variable is not `NAME:N` with a name that it lists.
#[cfg(feature = "failpoints")]
pub fn arrive(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var("KVD_FAILPOINT").ok()?;
        let wanted = text.split_once(':').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
        match wanted {
            Some((name, n)) if ALL.contains(&name.as_str()) => Some((name, n)),
            _ => panic!("KVD_FAILPOINT={text:?}: it is NAME:N with one of {ALL:?}"),
        }
    });
    static ARRIVALS: AtomicU64 = AtomicU64::new(0);

    assert!(ALL.contains(&name), "failpoint {name} is not in the list");
    if let Some((wanted, n)) = &*WANTED
        && wanted == name
        && ARRIVALS.fetch_add(1, Ordering::Relaxed) + 1 == *n
    {
        eprintln!("failpoint {name}, arrival {n}: this process ends here");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_failpoint_is_listed_once() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
