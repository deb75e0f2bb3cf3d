//! How a member behaves, seen through the public API.
//!
//! [`common::world`] drives whole clusters by hand on one thread: the test decides when a tick passes, what the network
//! and the disk do, and every run is the same. [`common::threads`] runs members as they run for real, on an executor
//! and with their threads.
// Helpers of tests are tests; clippy's exception knows only functions marked so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backlog;
mod cluster;
mod common;
mod full_disk;
mod golden;
mod limits;
mod membership;
mod raftexample;
mod reads;
mod recover;
mod requested_snapshots;
mod shutdown;
mod single;
mod snapshots;
mod traps;
mod turns;
