//! Behaviour of the log on a simulated disk, seen from outside.
// Helpers of tests are tests; clippy's exception knows only functions marked so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviours;
mod beside;
mod crash;
mod damage;
mod decision_table;
mod failures;
mod golden;
mod read_back;
mod replay;
mod support;
