//! A directory's names: what one sees, what is durable, and the changes between the two.

use std::collections::BTreeMap;

/// Names a file or directory for as long as the disk lives.
pub(super) type Ino = u64;

#[derive(Debug, Clone)]
enum Change {
    Put {
        name: String,
        ino: Ino,
    },
    Remove {
        name: String,
        ino: Ino,
    },
    /// One step within one directory: a crash shows the old name or the new, never both and never neither.
    Rename {
        from: String,
        to: String,
        ino: Ino,
    },
}

fn apply(names: &mut BTreeMap<String, Ino>, change: &Change) {
    match change {
        Change::Put { name, ino } => {
            names.insert(name.clone(), *ino);
        }
        Change::Remove { name, ino } => {
            if names.get(name) == Some(ino) {
                names.remove(name);
            }
        }
        Change::Rename { from, to, ino } => {
            if names.get(from) == Some(ino) {
                names.remove(from);
            }
            names.insert(to.clone(), *ino);
        }
    }
}

/// Whether [`apply`] would change anything.
fn matters(names: &BTreeMap<String, Ino>, change: &Change) -> bool {
    match change {
        Change::Put { name, ino } => names.get(name) != Some(ino),
        Change::Remove { name, ino } => names.get(name) == Some(ino),
        Change::Rename { from, to, ino } => names.get(from) == Some(ino) || names.get(to) != Some(ino),
    }
}

/// A directory's names.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    current: BTreeMap<String, Ino>,
    durable: BTreeMap<String, Ino>,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<Ino> {
        self.current.get(name).copied()
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.current.keys().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Everything that has a name now, or may have one after a crash.
    pub(super) fn reachable(&self) -> impl Iterator<Item = Ino> + '_ {
        let pending = self.pending.iter().map(|change| match change {
            Change::Put { ino, .. } | Change::Remove { ino, .. } | Change::Rename { ino, .. } => *ino,
        });
        self.current.values().chain(self.durable.values()).copied().chain(pending)
    }

    pub(super) fn put(&mut self, name: &str, ino: Ino) {
        self.change(Change::Put { name: name.to_owned(), ino });
    }

    pub(super) fn remove(&mut self, name: &str, ino: Ino) {
        self.change(Change::Remove { name: name.to_owned(), ino });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, ino: Ino) {
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), ino });
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// Power is lost. `lands` is asked for each change, and told whether it would change anything.
    pub(super) fn crash(&mut self, lands: &mut dyn FnMut(bool) -> bool) {
        for change in self.pending.drain(..) {
            if lands(matters(&self.durable, &change)) {
                apply(&mut self.durable, &change);
            }
        }
        self.current.clone_from(&self.durable);
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }
}
