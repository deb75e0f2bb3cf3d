//! A state machine that remembers every command and where it was applied.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use kvd_node::{StateMachine, View};

/// The commands in order, each with the raft index of its entry.
pub(crate) type Commands = Vec<(u64, Bytes)>;

/// Opened by the flag becoming true.
pub(crate) type Gate = Arc<(Mutex<bool>, Condvar)>;

type Watcher = Box<dyn FnMut(&Bytes) + Send>;

/// The state machine: answers a command with its place in the list. Clones are the same journal, so that a test can
/// look into the one that it gave to a node.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    commands: Arc<Mutex<Commands>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
    gate: Arc<Mutex<Option<Gate>>>,
    panics: Arc<AtomicBool>,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap()
    }

    /// What was applied, as text.
    pub(crate) fn text(&self) -> Vec<String> {
        self.lock().iter().map(|(_, command)| String::from_utf8_lossy(command).into_owned()).collect()
    }

    /// What was applied, with indices.
    pub(crate) fn commands(&self) -> Commands {
        self.lock().clone()
    }

    /// How often a command was applied.
    pub(crate) fn count(&self, command: &str) -> usize {
        self.text().iter().filter(|text| *text == command).count()
    }

    /// From now on a snapshot is written when the gate opens.
    pub(crate) fn write_behind(&self, gate: Gate) {
        *self.gate.lock().unwrap() = Some(gate);
    }

    /// From now on a snapshot is not written, for there is a bug.
    pub(crate) fn panic_when_written(&self) {
        self.panics.store(true, Ordering::Relaxed);
    }

    /// Calls `watcher` with each command from within [`StateMachine::apply`].
    pub(crate) fn watch(&self, watcher: impl FnMut(&Bytes) + Send + 'static) {
        *self.watcher.lock().unwrap() = Some(Box::new(watcher));
    }
}

impl StateMachine for Journal {
    type View = Frozen;
    type Restored = Commands;

    fn apply(&mut self, commands: &[Bytes], index: u64) -> Vec<Bytes> {
        let mut all = self.lock();
        let mut responses = Vec::new();
        for command in commands {
            if let Some(watcher) = self.watcher.lock().unwrap().as_mut() {
                watcher(command);
            }
            all.push((index, command.clone()));
            responses.push(Bytes::from(all.len().to_string()));
        }
        responses
    }

    fn freeze(&mut self) -> Frozen {
        let (gate, panics) = (self.gate.lock().unwrap().clone(), self.panics.load(Ordering::Relaxed));
        Frozen { commands: self.commands(), gate, panics }
    }

    fn restore(reader: &mut dyn Read) -> io::Result<Commands> {
        let mut number = || -> io::Result<u64> {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let count = number()?;
        let heads = (0..count).map(|_| Ok((number()?, number()?))).collect::<io::Result<Vec<_>>>()?;
        let mut commands = Commands::new();
        for (index, len) in heads {
            let mut command = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            reader.read_exact(&mut command)?;
            commands.push((index, command.into()));
        }
        Ok(commands)
    }

    fn install(&mut self, restored: Commands) {
        *self.lock() = restored;
    }
}

/// A frozen [`Journal`]: count, then index and length of each command, then the commands; numbers as u64 LE.
pub(crate) struct Frozen {
    commands: Commands,
    gate: Option<Gate>,
    panics: bool,
}

impl View for Frozen {
    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        assert!(!self.panics, "a bug of the state machine, for a test");
        if let Some((open, opened)) = self.gate.as_deref() {
            drop(opened.wait_while(open.lock().unwrap(), |open| !*open));
        }
        out.write_all(&(self.commands.len() as u64).to_le_bytes())?;
        for (index, command) in &self.commands {
            out.write_all(&index.to_le_bytes())?;
            out.write_all(&(command.len() as u64).to_le_bytes())?;
        }
        self.commands.iter().try_for_each(|(_, command)| out.write_all(command))
    }
}
