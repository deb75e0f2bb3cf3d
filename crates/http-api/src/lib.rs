//! kvd's HTTP door.
//!
//! # The surface
//!
//! At the root, raftexample's: `PUT /KEY`, `GET /KEY`, `POST /ID` with a peer URL, `DELETE /ID`. The key is the
//! percent-decoded path without its leading slash, the query excluded; keys and values are bytes. Some first segments
//! are reserved ([`RESERVED`]): keys under them are reached through `/v1/kv/KEY`, which takes GET, PUT and DELETE and
//! answers with `ETag` (the key's mod revision) and `Kvd-Revision` (the store's). Beside them `/health`, `/livez`,
//! `/readyz`, `/version` and `/metrics`.
//!
//! A GET with `?consistency=stale` is answered from the local state, at once. Its header `Kvd-Staleness-Ms` bounds the
//! state's age: everything that was acknowledged longer ago is in it. It is `unknown` while nothing proves a bound.
//!
//! | status | when |
//! |---|---|
//! | 200 | a GET that found something |
//! | 204 | done: committed and applied |
//! | 400 | bad path, key, member id, peer URL or query |
//! | 404 | no such key, member or endpoint |
//! | 405 | another method; `Allow` says which there are |
//! | 409 | the member exists with another URL, or is the last voter; the leader finds the change unsafe |
//! | 410 | the member was removed |
//! | 413 | the key, value or URL is too long |
//! | 429 | overloaded, nothing was done; `Retry-After` |
//! | 503 | no leader, or stopping; nothing was done; `Retry-After` |
//! | 504 | the outcome is unknown |
//! | 507 | the member's disk is full, nothing was done; `Retry-After` |
//!
//! Every refusal carries its reason in words: at the root one line of `text/plain`, under `/v1` a problem document
//! (`application/problem+json`) with `status`, `title`, `detail`, `leader` if one is known, and one of these codes, which
//! stay as they are:
//!
//! | status | `code` |
//! |---|---|
//! | 400, 413, 405, 501 | `bad_request`, `too_large`, `method_not_allowed`, `not_implemented` |
//! | 404 | `key_not_found`, `member_unknown` |
//! | 409 | `member_conflict`, `last_voter`, `loses_quorum`, `not_caught_up`, `not_taken_over`, `change_under_way` |
//! | 410 | `member_removed` |
//! | 429 | `overloaded` |
//! | 503 | `no_leader`, `stopping`, `removed` (the member that was asked) |
//! | 504 | `outcome_unknown` |
//! | 500 | `internal` |
//!
//! Beside the keys there are `/v1/members`, `/v1/leader` and `/v1/status`, in JSON: `src/members.rs` has their forms.
//!
//! # Bounds
//!
//! [`Options`] lists them all: connections, bytes of a head, bytes of bodies that are being read, and how long a
//! connection may take for each thing that its client does. Beyond its bound a connection is closed, a request refused.
//!
//! # Order of calls
//!
//! ```text
//! HttpApi::new(door, extras) -> with_options(..) -> serve(listener) -> Server -> shutdown().await
//! ```
//!
//! One task accepts and owns the connections; each connection is a task; a request spawns nothing. The door holds no
//! state of the store.

mod answer;
mod body;
mod connection;
mod members;
mod operations;
mod path;
mod root;
mod server;
mod v1;

pub use operations::Extras;
pub use path::RESERVED;
pub use server::{Drained, HttpApi, Options, Server};
