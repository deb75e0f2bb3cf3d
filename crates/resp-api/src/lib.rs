//! kvd's Redis door.
//!
//! # The surface
//!
//! RESP2, RESP3 after `HELLO 3`, and inline requests, on the keys and the history of the other doors. Redis 7's arities,
//! semantics and error texts for the commands that there are; `docs/redis.md` lists them, and every deliberate
//! difference. Any member takes any command. Reads are linearizable, unless the connection said `READONLY`.
//!
//! # Order and consistency
//!
//! A connection's requests take effect in their order. Writes that arrive together are proposed together, reads that
//! arrive together share one round to the leader, and replies are sent in one write. How that goes together is in
//! `connection`.
//!
//! # Bounds
//!
//! [`Options`] lists them, and how long a client may take for each thing it does; [`parse::Limits`] those of a request. A
//! request over its bound gets an error; where its bytes could not be told from the next request's, the connection is
//! closed behind it.
//!
//! # Order of calls
//!
//! ```text
//! RespApi::new(door) -> with_options(..) -> serve(listener) -> Server -> shutdown().await
//! ```
//!
//! One task accepts and owns the connections; each connection is a task; a request spawns nothing. The door holds no
//! state of the store, but for where the last scans stand.

mod commands;
mod connection;
mod cursors;
mod errors;
mod gauge;
mod glob;
mod inline;
pub mod parse;
mod reply;
mod server;
mod table;

pub use server::{Drained, Options, RespApi, Server};
