//! What is on the disk, and the faults that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::content::Content;
use super::names::{Ino, Names};
use super::rng::Rng;
use super::{MemDisk, Op};

pub(super) const ROOT: Ino = 0;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EISDIR: i32 = 21;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOTEMPTY: i32 = 39;

#[derive(Debug)]
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
    pub(super) faults: Vec<(Op, u64, i32)>,
    /// Operations that failed, by error number.
    pub(super) failures: BTreeMap<i32, u64>,
    pub(super) capacity: Option<u64>,
    pub(super) rng: Rng,
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
    pub(super) fn begin(&mut self, op: Op) -> io::Result<Power> {
        if self.off {
            return Err(no_power());
        }
        let mut power = Power::On;
        if op != Op::Read {
            self.operations += 1;
            if self.power_off_at == Some(self.operations) {
                self.off = true;
                power = Power::Fails;
            }
        }
        let mut failed = None;
        self.faults.retain_mut(|(which, left, errno)| {
            if *which == op {
                *left -= 1;
                if *left == 0 {
                    failed = Some(*errno);
                }
            }
            *left > 0
        });
        match failed {
            Some(errno) if power == Power::On => Err(self.fail(errno)),
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

    pub(super) fn crash(&mut self, mut rng: Option<&mut Rng>) {
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(names) => names.crash(rng.as_deref_mut()),
                Node::File(content) => content.crash(rng.as_deref_mut()),
            }
        }
        self.kill();
    }

    pub(super) fn kill(&mut self) {
        self.generation += 1;
        self.handles.clear();
        self.locks.clear();
        self.faults.clear();
        self.power_off_at = None;
        self.off = false;
        self.collect();
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
