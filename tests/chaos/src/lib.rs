//! Real faults on clusters of real processes.
//!
//! A run starts a cluster, lets clients read and write, and does to it what its seed says, several things at once:
//! processes are killed and stopped, disks fail, are slow, fill up and lose power, links are cut and slow, clocks jump,
//! members come and go. At the end everything is mended, every key is read at every member, and what the clients were
//! told is checked (`kvd-linearizability`).
//!
//! A run passes if
//! - every answer can be true, and the checker was not stopped by its limits;
//! - every fault is shown to have happened: by an exit status, a tracer's report, bytes that met a cut link;
//! - a member whose disk failed stopped and said why, and no other member ended by itself;
//! - after every round of faults all members get ready and writes go on;
//! - no member logged a panic, and no answer was one that a healthy member does not give.
//!
//! | module | does |
//! |---|---|
//! | [`cluster`] | members, the mounts that they lie on, joining and leaving |
//! | [`proxy`] | the links between them |
//! | [`faults`] | one file for each kind of fault |
//! | [`door`], [`clients`] | clients of the HTTP and the Redis door; the history |
//! | [`run`] | one run, and its verdict |
//! | [`failpoints`] | members that end at each durability edge |
//! | [`ci`] | all of it, in a few minutes |
//!
//! What a machine cannot do (no loop devices, no tracing) is left out, and the run says so.

// A harness reports by panicking where it waits in vain; `run` catches that, and keeps the history.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod capabilities;
pub mod ci;
pub mod clients;
pub mod cluster;
pub mod door;
pub mod failpoints;
pub mod faults;
pub mod proxy;
pub mod rng;
pub mod run;
