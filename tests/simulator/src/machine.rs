//! The store's state machine, with a note of everything that is applied.
//!
//! The notes are the history that the cluster agreed on: which commands each log index applied, and with what
//! response. A member that applies something else at an index breaks State Machine Safety.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_kvstore::command::Command;
use kvd_kvstore::store::Store;
use kvd_kvstore::{Kv, Shared};
use kvd_mutation::{Bug, planted};
use kvd_node::StateMachine;

/// A command and its response.
pub type Effect = (Bytes, Bytes);

/// What was applied at each index, by whoever was first.
#[derive(Debug, Default)]
pub struct Notes {
    /// The effects of each log entry that had any.
    pub applied: BTreeMap<u64, Vec<Effect>>,
    /// The first time that two members differed.
    pub conflict: Option<String>,
}

/// The notes of a cluster, shared by its members.
pub type SharedNotes = Arc<Mutex<Notes>>;

/// Locks the notes.
pub fn lock(notes: &SharedNotes) -> MutexGuard<'_, Notes> {
    // One thread; a panic ends the run anyway.
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A state machine that takes notes.
pub struct Machine {
    kv: Kv,
    member: u64,
    notes: SharedNotes,
}

impl Machine {
    /// The state machine of a member, over its store.
    pub fn new(store: Shared, member: u64, notes: SharedNotes) -> Self {
        Self { kv: Kv::new(store), member, notes }
    }
}

impl StateMachine for Machine {
    type View = <Kv as StateMachine>::View;
    type Restored = Store;

    fn apply(&mut self, commands: &[Bytes], index: u64) -> Vec<Bytes> {
        let differs = planted(Bug::ApplyDiffers) && self.member == 1 && index.is_multiple_of(7);
        let changed = commands.iter().map(|command| match Command::decode(command.clone()) {
            Ok(Command::Put { key, value }) if differs => {
                Command::Put { key, value: [&value[..], b"?"].concat().into() }.encode()
            }
            _ => command.clone(),
        });
        let responses = self.kv.apply(&changed.collect::<Vec<_>>(), index);
        let effects: Vec<Effect> = commands.iter().cloned().zip(responses.iter().cloned()).collect();
        let mut notes = lock(&self.notes);
        let first = notes.applied.entry(index).or_insert_with(|| effects.clone());
        if *first != effects {
            let member = self.member;
            notes.conflict.get_or_insert(format!("member {member} applies something else at index {index}"));
        }
        responses
    }

    fn freeze(&mut self) -> Self::View {
        self.kv.freeze()
    }

    fn restore(reader: &mut dyn Read) -> io::Result<Store> {
        Kv::restore(reader)
    }

    fn install(&mut self, restored: Store) {
        self.kv.install(restored);
    }
}
