//! The order of effects. This file states it, and nothing else carries it out.
//!
//! For each [`raft::Ready`], in the asynchronous form (docs/ready-order.md tells the reasons):
//!
//! 1. **send** the messages that need no disk (a leader's: its followers write while it writes). Not while its term or
//!    vote is on its way to the disk: a sole voter elects itself in one step, and its learners must not hear of a term
//!    that it could lead once more after a crash;
//! 2. **write** entries, hard state and snapshot record: handed to the log's thread in this order, one sync a group;
//! 3. **store** them in memory, where raft reads them from now on, and tell raft (`advance_append_async`);
//! 4. **apply** what is committed, answer its waiters, and tell raft (`advance_apply_to`).
//!
//! And when a write is durable ([`Core::written`]):
//!
//! 5. tell raft (`on_persist_ready`), then **send** the messages that promised it (votes, acknowledgements).
//!
//! A Ready without anything to sync needs no write of its own. Its messages still wait for the writes before it, whose
//! content they may repeat, and its commit index travels with the next write. The form has no LightReady: a commit
//! index that moves later is in the hard state of the next Ready. So what a snapshot record needs is always there:
//! each write carries the newest hard state, and a record is written after the commit that covers it.
//!
//! Outside of this order, before each Ready: what a member that restarted has yet to apply, and has on disk only, is
//! read ahead (`LogStorage::read_ahead`). And after a drain: what raft wants of entries that are no longer in memory is
//! **read back**, and what is durable and applied leaves memory (`backlog.rs`). Nothing of the order depends on these.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use kvd_vfs::failpoint;
use raft::eraftpb::{Entry, HardState, Message, SnapshotMetadata};

use kvd_mutation::{Bug, planted};

use crate::core::{Core, Outside};
use crate::error::Fatal;
use crate::state_machine::StateMachine;

/// A turn handles at most this many Readys, each with up to 4 MiB of committed entries: a long log that is replayed, or
/// sent by a leader, must not starve the ticks. What is left is for the next turn ([`Core::has_more`]).
const MAX_READIES: usize = 8;

/// One group for the log's thread: in this order, durable together or not acknowledged at all.
#[derive(Debug)]
pub struct Write {
    /// Ascends by one. `Done::Written` takes it back.
    pub seq: u64,
    /// A snapshot whose file is durable, to be recorded before the rest.
    pub snapshot: Option<SnapshotMetadata>,
    /// Entries to append; they overwrite what the log holds from the first one's index on.
    pub entries: Vec<Entry>,
    /// The newest hard state, if it is not in the log yet.
    pub hard_state: Option<HardState>,
}

struct InFlight {
    seq: u64,
    begun: Duration,
    /// Whether it holds a new term or vote.
    elects: bool,
    /// The newest Ready that is persisted when this write is durable; 0 for none.
    ready: u64,
    /// The index of the leader's snapshot that the write records.
    installed: Option<u64>,
    /// A snapshot of our own that the write records: the log may then be cut behind it.
    compact: Option<SnapshotMetadata>,
    /// Messages that may go when this write is durable, and no earlier.
    held: Vec<Message>,
}

/// The writes on their way to the disk, oldest first.
#[derive(Default)]
pub(crate) struct Pipeline {
    last_seq: u64,
    in_flight: VecDeque<InFlight>,
    /// The newest hard state, until a write carries it.
    unsaved: Option<HardState>,
    /// The newest term and vote that a write has carried.
    elected: (u64, u64),
}

impl Pipeline {
    /// Gate one: whether nothing is being written, so that a new proposal would not wait behind a sync.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether a new term or vote is not durable yet.
    fn is_electing(&self) -> bool {
        self.in_flight.iter().any(|write| write.elects)
    }

    /// Whether a snapshot of the leader took the place of the state and its record is not durable yet.
    pub(crate) fn is_installing(&self) -> bool {
        self.in_flight.iter().any(|write| write.installed.is_some())
    }

    /// The oldest write that is not durable yet: its number, and when it was handed over.
    pub(crate) fn oldest(&self) -> Option<(u64, Duration)> {
        self.in_flight.front().map(|write| (write.seq, write.begun))
    }

    fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// The hard state that no write has carried yet; the last write before the log is closed takes it.
    pub(crate) fn take_unsaved(&mut self) -> Option<HardState> {
        self.unsaved.take()
    }
}

impl<S: StateMachine> Core<S> {
    /// Does what can be done now, at most [`MAX_READIES`] times.
    pub(crate) fn drain(&mut self, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        self.has_more = true;
        for _ in 0..MAX_READIES {
            // First: what it asks for again must not be asked for twice.
            self.note_leader();
            self.move_changes_on(out);
            self.propose_what_waits();
            self.ask_for_read_index();
            self.raw.mut_store().read_ahead(self.applied)?;
            if !self.raw.has_ready() {
                self.has_more = false;
                break;
            }
            self.handle_ready(out)?;
        }
        self.mind_the_backlog(out);
        self.snapshot_if_due(out)
    }

    fn handle_ready(&mut self, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        let mut ready = self.raw.ready();
        // 1. send
        let elected = ready.hs().map_or(self.pipeline.elected, |state| (state.term, state.vote));
        let elects = elected != self.pipeline.elected;
        self.pipeline.elected = elected;
        let mut held = ready.take_persisted_messages();
        let mut messages = ready.take_messages();
        if planted(Bug::PromiseBeforeSync) {
            messages.append(&mut held);
        }
        if elects || self.pipeline.is_electing() {
            held.extend(messages);
        } else if !messages.is_empty() {
            out.send(messages);
        }

        // 2. write
        let number = ready.number();
        let entries = ready.take_entries();
        let snapshot = Some(ready.snapshot()).filter(|s| !s.is_empty()).map(|s| s.get_metadata().clone());
        if let Some(state) = ready.hs().filter(|_| elects || !planted(Bug::CommitNotWritten)) {
            self.pipeline.unsaved = Some(state.clone());
        }
        let must_sync = ready.must_sync() && !(entries.is_empty() && planted(Bug::TermNotSynced));
        if must_sync {
            let seq = self.pipeline.next_seq();
            self.pipeline.in_flight.push_back(InFlight {
                seq,
                begun: self.now,
                elects,
                ready: number,
                installed: snapshot.as_ref().map(|metadata| metadata.index),
                compact: None,
                held: mem::take(&mut held),
            });
            out.write(Write {
                seq,
                snapshot: snapshot.clone().filter(|_| !planted(Bug::InstallNotRecorded)),
                entries: entries.clone(),
                hard_state: self.pipeline.take_unsaved(),
            });
        }

        // 3. store
        if let Some(state) = ready.hs() {
            self.raw.mut_store().set_hard_state(state.clone());
        }
        if let Some(metadata) = snapshot {
            failpoint!("install-before");
            self.install(metadata, out)?;
            failpoint!("install-after");
        }
        self.raw.mut_store().append(&entries);
        let committed = ready.take_committed_entries();
        for read in ready.take_read_states() {
            if self.reads.confirm(&read.request_ctx, read.index) && self.is_leader() {
                self.lease.confirmed(self.raw.raft.term);
            }
        }
        self.raw.advance_append_async(ready);
        if planted(Bug::AckBeforeSync) {
            self.raw.on_persist_ready(number);
        }
        if !must_sync {
            self.after_earlier_writes(number, held, out);
        }

        // 4. apply
        if let Some(last) = committed.last().map(|entry| entry.index) {
            failpoint!("apply-before");
            for entry in committed {
                self.apply(entry, out)?;
            }
            failpoint!("apply-after");
            self.raw.advance_apply_to(last);
        }
        self.reads.applied(self.applied);
        Ok(())
    }

    /// A Ready with nothing to sync: it counts as persisted once every write before it is.
    fn after_earlier_writes(&mut self, number: u64, held: Vec<Message>, out: &mut impl Outside<S>) {
        match self.pipeline.in_flight.back_mut() {
            Some(last) => {
                last.held.extend(held);
                last.ready = number;
            }
            None => {
                self.raw.on_persist_ready(number);
                if !held.is_empty() {
                    out.send(held);
                }
            }
        }
    }

    /// Every write up to `seq` is durable.
    pub(crate) fn written(&mut self, seq: u64, out: &mut impl Outside<S>) {
        while self.pipeline.in_flight.front().is_some_and(|write| write.seq <= seq) {
            let Some(write) = self.pipeline.in_flight.pop_front() else { break };
            // 5. persisted
            if write.ready != 0 {
                self.raw.on_persist_ready(write.ready);
            }
            if let Some(index) = write.installed {
                self.raw.advance_apply_to(index);
                out.discard_older(self.compaction.newest());
            }
            if let Some(metadata) = write.compact {
                self.compact(metadata, out);
            }
            if !write.held.is_empty() {
                out.send(write.held);
            }
        }
    }

    /// The file of a snapshot of our own is durable: record it, with the commit index that covers it.
    pub(crate) fn record_snapshot(&mut self, metadata: SnapshotMetadata, out: &mut impl Outside<S>) {
        failpoint!("snapshot-before-record");
        let seq = self.pipeline.next_seq();
        let compact = Some(metadata.clone());
        self.pipeline.in_flight.push_back(InFlight {
            seq,
            begun: self.now,
            elects: false,
            ready: 0,
            installed: None,
            compact,
            held: Vec::new(),
        });
        let hard_state = self.pipeline.take_unsaved();
        out.write(Write { seq, snapshot: Some(metadata), entries: Vec::new(), hard_state });
    }
}
