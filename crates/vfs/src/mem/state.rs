//! What is on the disk, and the faults that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use super::content::Content;
use super::names::{Ino, Names};
use super::rng::Rng;
use super::{MemDisk, Op};

pub(super) const ROOT: Ino = 0;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EISDIR: i32 = 21;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOTEMPTY: i32 = 39;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Dir(Names),
    File(Content),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) next: Ino,
    /// Open files, by node.
    pub(super) handles: BTreeMap<Ino, u32>,
    pub(super) locks: BTreeSet<Ino>,
    /// Counts crashes; handles of an older one are dead.
    pub(super) generation: u64,
    /// Operations that changed something, since the disk was made.
    pub(super) operations: u64,
    pub(super) power_off_at: Option<u64>,
    pub(super) off: bool,
    pub(super) faults: Vec<Fault>,
    /// Operations that failed, by error number.
    pub(super) failures: BTreeMap<i32, u64>,
    pub(super) capacity: Option<u64>,
    pub(super) rng: Rng,
    /// Operations that will stall: which, and how many of them come before.
    pub(super) stalls: Vec<(Op, u64)>,
    /// How many operations stall now.
    pub(super) stalled: usize,
    /// Counts releases: what stalled before the last one goes on.
    pub(super) releases: u64,
    /// Operations that will take long, and how long, in virtual time.
    pub(super) delays: Vec<(Op, u64, Duration)>,
    /// Virtual time that operations took, and nobody has taken note of.
    pub(super) delayed: Duration,
}

/// An operation that will fail.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) op: Op,
    /// How many operations of that kind are left, it included.
    pub(super) left: u64,
    pub(super) errno: i32,
    /// Of a write: the bytes that land. Drawn if not given.
    pub(super) lands: Option<u64>,
}

/// Counts an operation down, and says whether it is the one.
fn is_due(op: Op, which: Op, left: &mut u64) -> bool {
    if op == which {
        *left -= 1;
    }
    *left == 0
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Names::default()))]),
            next: ROOT + 1,
            handles: BTreeMap::new(),
            locks: BTreeSet::new(),
            generation: 0,
            operations: 0,
            power_off_at: None,
            off: false,
            faults: Vec::new(),
            failures: BTreeMap::new(),
            capacity: None,
            rng: Rng::new(0),
            stalls: Vec::new(),
            stalled: 0,
            releases: 0,
            delays: Vec::new(),
            delayed: Duration::ZERO,
        }
    }
}

/// What the power does to the operation that just began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// It fails in the middle of this operation: take effect, without being durable, and fail.
    Fails,
}

pub(super) fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

pub(super) fn no_power() -> io::Error {
    io::Error::other("the simulated disk has no power")
}

pub(super) fn names_in(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or_else(|| os(EINVAL))?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(os(EINVAL)),
        }
    }
    Ok(names)
}

pub(super) fn parent_and_name(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| os(EINVAL))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

impl State {
    /// Whether the operation that is about to begin stalls.
    pub(super) fn stalls(&mut self, op: Op) -> bool {
        let before = self.stalls.len();
        self.stalls.retain_mut(|(which, left)| !is_due(op, *which, left));
        self.stalls.len() < before
    }

    pub(super) fn begin(&mut self, op: Op) -> io::Result<Power> {
        self.begin_write(op).map_err(|(error, _)| error)
    }

    /// As [`State::begin`]; an error comes with the number of bytes that a failing write lands, if that was asked for.
    pub(super) fn begin_write(&mut self, op: Op) -> Result<Power, (io::Error, Option<u64>)> {
        if self.off {
            return Err((no_power(), None));
        }
        let mut power = Power::On;
        if op != Op::Read {
            self.operations += 1;
            if self.power_off_at == Some(self.operations) {
                self.off = true;
                power = Power::Fails;
            }
        }
        let delayed = &mut self.delayed;
        self.delays.retain_mut(|(which, left, long)| {
            let due = is_due(op, *which, left);
            if due {
                *delayed += *long;
            }
            !due
        });
        let mut failed = None;
        self.faults.retain_mut(|fault| {
            let due = is_due(op, fault.op, &mut fault.left);
            if due {
                failed = Some((fault.errno, fault.lands));
            }
            !due
        });
        match failed {
            Some((errno, lands)) if power == Power::On => Err((self.fail(errno), lands)),
            _ => Ok(power),
        }
    }

    fn fail(&mut self, errno: i32) -> io::Error {
        *self.failures.entry(errno).or_default() += 1;
        os(errno)
    }

    pub(super) fn end(power: Power) -> io::Result<()> {
        if power == Power::On { Ok(()) } else { Err(no_power()) }
    }

    /// Power is lost; `lands` decides as in [`Content::crash`].
    pub(super) fn crash(&mut self, lands: &mut dyn FnMut(bool) -> bool) {
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(names) => names.crash(lands),
                Node::File(content) => content.crash(lands),
            }
        }
        self.forget_processes();
        self.collect();
    }

    /// Ends whoever has files open, and drops the faults that were planned for them.
    pub(super) fn forget_processes(&mut self) {
        self.generation += 1;
        self.handles.clear();
        self.locks.clear();
        self.clear_faults();
        self.off = false;
        self.releases += 1;
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
        self.stalls.clear();
        self.delays.clear();
        self.power_off_at = None;
    }

    /// The same files, for nobody yet.
    pub(super) fn fork(&self) -> State {
        let mut fork = State {
            nodes: self.nodes.clone(),
            next: self.next,
            operations: self.operations,
            failures: self.failures.clone(),
            capacity: self.capacity,
            rng: self.rng.clone(),
            ..State::default()
        };
        fork.collect();
        fork
    }

    /// Forgets what has no name and no handle, now and after any crash.
    pub(super) fn collect(&mut self) {
        let mut live: BTreeSet<Ino> = self.handles.keys().copied().collect();
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if live.insert(ino)
                && let Some(Node::Dir(names)) = self.nodes.get(&ino)
            {
                todo.extend(names.reachable());
            }
        }
        self.nodes.retain(|ino, _| live.contains(ino));
    }

    pub(super) fn used(&self) -> u64 {
        let files = self.nodes.values().map(|node| match node {
            Node::File(content) => content.bytes().len() as u64,
            Node::Dir(_) => 0,
        });
        files.sum()
    }

    pub(super) fn room_for(&mut self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => {
                Err(self.fail(MemDisk::ENOSPC))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn dir(&mut self, ino: Ino) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Dir(names)) => Ok(names),
            _ => Err(os(ENOTDIR)),
        }
    }

    pub(super) fn file(&mut self, ino: Ino) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(os(EISDIR)),
        }
    }

    pub(super) fn find(&mut self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for name in names_in(path)? {
            ino = self.dir(ino)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(ino)
    }

    pub(super) fn add(&mut self, dir: Ino, name: &str, node: Node) -> io::Result<Ino> {
        let ino = self.next;
        self.dir(dir)?.put(name, ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        Ok(ino)
    }

    pub(super) fn remove_tree(&mut self, dir: Ino) -> io::Result<()> {
        for name in self.dir(dir)?.list() {
            let Some(ino) = self.dir(dir)?.get(&name) else { continue };
            if let Some(Node::Dir(_)) = self.nodes.get(&ino) {
                self.remove_tree(ino)?;
            }
            self.dir(dir)?.remove(&name, ino);
        }
        Ok(())
    }
}
