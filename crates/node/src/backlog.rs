//! The log in memory is bounded; what a follower that lags still needs is read back from the disk, beside the loop.
//!
//! 1. After each drain entries that are applied *and* durable leave memory, oldest first, while the rest takes more than
//!    [`crate::Config::log_cache_bytes`]. No others may: raft reads them in places where it cannot wait.
//! 2. raft wants entries for a follower that memory does not have: the storage tells it to wait, and notes the request.
//!    After the drain the requests go out ([`Outside::fetch_entries`]), one for each range, two at a time.
//! 3. The answer comes back, is compared with the log as it is now, and kept; raft is told (`on_entries_fetched`) and
//!    asks again, this time with success. Or in vain: the log was compacted meanwhile, so raft sends a snapshot; or this
//!    member no longer leads, and raft does not ask. An error that is not damage is no answer: raft asks again later.

use kvd_wal::{Fetch, ReadBack};

use crate::core::{Core, Outside};
use crate::error::Fatal;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Core<S> {
    /// After a drain: asks for what raft wants, and lets go of what memory need not hold.
    pub(crate) fn mind_the_backlog(&mut self, out: &mut impl Outside<S>) {
        let log = &self.raw.raft.raft_log;
        let settled = log.applied.min(log.persisted);
        let leads = self.is_leader();
        let storage = self.raw.mut_store();
        storage.evict(settled);
        if !leads {
            storage.forget_fetches();
        }
        while let Some(fetch) = storage.next_fetch() {
            self.readbacks += 1;
            out.fetch_entries(fetch);
        }
    }

    /// Nothing could be read for now. Nobody is told: raft would ask again at once. It asks when the follower answers the
    /// next heartbeat.
    pub(crate) fn not_fetched(&mut self, fetch: Fetch) {
        self.raw.mut_store().not_fetched(fetch);
    }

    /// Entries were read back.
    pub(crate) fn fetched(&mut self, fetch: Fetch, answer: ReadBack) -> Result<(), Fatal> {
        for context in self.raw.mut_store().fetched(fetch, answer)? {
            self.raw.on_entries_fetched(context);
        }
        Ok(())
    }
}
