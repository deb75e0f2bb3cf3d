//! What a user of this crate brings: the state that the log drives.

use std::io::{self, Read, Write};

use bytes::Bytes;

/// A deterministic state machine: the same commands in the same order give the same state and the same responses on
/// every member. So no clock, no randomness and no order of a hash map may reach its state.
///
/// A command is applied once for each successful proposal, however often the proposal was retried: the node keeps
/// the recent request ids and their responses beside the state (see [`crate::session`]) and calls [`Self::apply`]
/// only for requests it has not seen.
pub trait StateMachine: Send + 'static {
    /// The state as of one moment, for a snapshot.
    type View: View;
    /// A state read back from a snapshot, not yet in place.
    type Restored: Send + 'static;

    /// Applies the commands of one raft entry, in order, and returns one response for each. Runs on the node's task:
    /// in memory, and brief. A command that makes no sense gets a response that says so; it must not panic.
    ///
    /// `index` is the raft index of the entry.
    fn apply(&mut self, commands: &[Bytes], index: u64) -> Vec<Bytes>;

    /// Freezes the state for a snapshot. Runs on the node's task, so it must be cheap however large the state is.
    fn freeze(&mut self) -> Self::View;

    /// Reads what [`View::write`] wrote, off the node's task.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] where the bytes are not a snapshot of this state machine; whatever `reader`
    /// answers otherwise.
    fn restore(reader: &mut dyn Read) -> io::Result<Self::Restored>;

    /// Replaces the state. Runs on the node's task.
    fn install(&mut self, restored: Self::Restored);
}

/// A frozen state that can be written while the state machine goes on.
pub trait View: Send + 'static {
    /// Streams the state, in memory that does not grow with it. Runs on a thread of its own.
    ///
    /// # Errors
    /// Whatever `out` answers.
    fn write(self, out: &mut dyn Write) -> io::Result<()>;
}
