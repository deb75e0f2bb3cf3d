//! kvd's state machine, and the service around it.
//!
//! | module | holds |
//! |---|---|
//! | [`store`] | the map: keys, values, revisions. It knows nothing of raft |
//! | [`txn`] | several operations under one revision, with conditions |
//! | [`command`] | commands and responses to bytes and back |
//! | [`apply`] | [`Kv`]: committed commands to changes of the store |
//! | [`snapshot`] | the bytes of the store in a snapshot |
//! | [`service`] | [`Service`]: propose a command and await its result, linearizable reads, membership |
//! | [`admin`] | [`admin::Admin`]: what a front door may ask about the cluster |
//! | [`door`] | [`Door`]: what a front door may ask, and the errors it renders |
//!
//! # Who holds the store
//!
//! One [`store::Shared`] (an `Arc<RwLock<Store>>`) is shared by the state machine, which the node's loop owns, and by
//! the services, which only read. [`Kv`] takes the write lock once for the commands of one entry; a reader takes the
//! read lock for one look-up and never holds it across an `.await`; freezing a view takes the read lock for a clone
//! in O(1). So a reader sees the state between two entries, never within one.
//!
//! ```
//! use kvd_kvstore::store::Store;
//!
//! let mut store = Store::new();
//! assert_eq!(store.revision(), 1);
//! let written = store.put(b"greeting", b"hello");
//! assert_eq!((written.revision, written.version), (2, 1));
//! assert_eq!(store.get(b"greeting").unwrap().value, "hello");
//! assert!(!store.delete(b"nothing").existed);
//! assert_eq!(store.revision(), 2); // a delete of nothing takes no revision
//! ```

pub mod admin;
pub mod apply;
pub mod command;
pub mod door;
mod key;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod txn;

pub use apply::Kv;
pub use door::{Age, Consistency, Door, Error, Limits, MembershipRefusal, Reading, Status};
pub use service::Service;
pub use store::{Deleted, Record, Shared, Written};
pub use txn::{Compare, Done, Operation, Target, Txn};

/// The replicated form of commands and responses. Generated from `proto/command.proto`; the comments there are the
/// documentation.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod pb {
    include!("generated/kvd.store.rs");
}
