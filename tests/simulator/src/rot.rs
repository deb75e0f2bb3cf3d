//! Rot: a bit of what is durable flips, on one member's disk at a time, while its process is down.
//!
//! What must come of it: a damaged log is refused, with the file and the offset, and the member stays down; a damaged
//! snapshot is set aside, and an older one taken; damage that nobody reads changes nothing. Then somebody brings the bytes
//! back, or gives the member up: it is removed, and another joins with an empty disk.

use std::path::{Path, PathBuf};

use kvd_mutation::{Bug, planted};
use kvd_node::Fatal;
use kvd_vfs::{MemDisk, Vfs as _};

use crate::fault::Fault;
use crate::member::{End, Stage};
use crate::plan::SECOND;
use crate::process::DIR;
use crate::world::{Event, World};

/// A file as it was before a bit of it flipped.
#[derive(Debug)]
pub(crate) struct Rotten {
    file: PathBuf,
    before: Vec<u8>,
}

impl World {
    /// Ends a member and damages its disk. `false` if there is nobody whom the others can do without.
    pub(crate) fn let_rot(&mut self) -> bool {
        if self.members.iter().any(|member| member.rotten.is_some()) {
            return false;
        }
        let spare: Vec<usize> = (0..self.members.len())
            .filter(|m| self.members[*m].running.is_some() && !self.members[*m].rotted)
            .filter(|m| self.can_do_without(*m))
            .collect();
        if spare.is_empty() {
            return false;
        }
        let m = self.rng.pick(&spare);
        let end = self.rng.pick(&[End::Kill, End::PowerLoss]);
        self.end_abruptly(m, end);
        let files = files(&self.members[m].disk);
        let file = files[self.rng.index(files.len())].clone();
        // It may have lost its name in the power loss.
        let Ok(before) = self.members[m].disk.read_file(&file) else { return false };
        // Behind the end of what was written there are only zeros, whose rot means nothing.
        let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return false;
        }
        // The number of starts is a byte or two, and matters more than what stands behind it.
        let number = before.iter().position(|byte| *byte == b' ').filter(|_| file.ends_with("boot"));
        let part = number.filter(|_| self.rng.permille(700)).unwrap_or(used);
        let (at, bit) = (self.rng.index(part), self.rng.within(0..8));
        let mut after = before.clone();
        after[at] ^= 1 << bit;
        let id = self.members[m].id;
        self.tell(id, format_args!("a bit flips in {}, at offset {at}", file.display()));
        if self.members[m].disk.overwrite_file(&file, after).is_err() {
            return false;
        }
        self.members[m].rotten = Some(Rotten { file, before });
        self.members[m].rotted = true;
        self.happened(Fault::Rot);
        true
    }

    /// Whether a member refuses its damaged log. It stays down then, until somebody comes.
    pub(crate) fn refuses_for_rot(&mut self, m: usize, error: &Fatal) -> bool {
        let id = self.members[m].id;
        let Some(rotten) = &self.members[m].rotten else { return false };
        let text = error.to_string();
        let last_snapshot = matches!(error, Fatal::NoSnapshot(dir) if rotten.file.starts_with(dir));
        if !last_snapshot && !text.contains(&*rotten.file.to_string_lossy()) {
            return false;
        }
        let short = rotten.file.ends_with("boot");
        if !last_snapshot && !short && !text.contains("offset") {
            self.fail(format!("member {id} refuses damage without saying where it is: {text}"));
            return true;
        }
        self.tell(id, format_args!("refuses what it finds: {text}"));
        self.count("members that refused a damaged disk");
        self.members[m].refused = true;
        let at = self.now + self.rng.within(SECOND..6 * SECOND);
        self.at(at, Event::Repair { member: m });
        true
    }

    /// Somebody looks after a member that refused to start.
    pub(crate) fn repair(&mut self, m: usize) {
        if !self.members[m].refused || !self.members[m].counts() {
            return;
        }
        let id = self.members[m].id;
        if planted(Bug::WipedComesBack) {
            self.tell(id, format_args!("starts again with an empty disk"));
            self.members[m].disk = MemDisk::new();
            self.members[m].rotten = None;
            self.members[m].refused = false;
            self.restart_later(m);
        } else if !self.healed && self.rng.permille(500) && self.replace(m) {
            self.tell(id, format_args!("is given up"));
        } else {
            self.bring_back(m);
            self.restart_later(m);
        }
    }

    /// Undoes the damage.
    pub(crate) fn bring_back(&mut self, m: usize) {
        let id = self.members[m].id;
        let Some(rotten) = self.members[m].rotten.take() else { return };
        let disk = &self.members[m].disk;
        let mut set_aside = rotten.file.clone().into_os_string();
        set_aside.push(".broken");
        // It is there under one of the two names.
        let _ = disk.rename(Path::new(&set_aside), &rotten.file);
        let _ = disk.sync_dir(rotten.file.parent().unwrap_or(Path::new(DIR)));
        if disk.overwrite_file(&rotten.file, rotten.before).is_ok() {
            self.tell(id, format_args!("gets the damaged file back"));
            self.count("damaged files brought back");
        }
        self.members[m].refused = false;
    }

    /// Whether the others are enough to go on, also without knowing what this one knows: they are a majority of the
    /// voters, and none of them is down for good.
    pub(crate) fn can_do_without(&self, m: usize) -> bool {
        let (voters, _) = self.invariants.configuration.newest();
        let id = self.members[m].id;
        let sound = voters.iter().filter(|voter| {
            let other = &self.members[(**voter - 1) as usize];
            **voter != id && !other.refused && other.rotten.is_none() && other.stage == Stage::In
        });
        sound.count() > voters.len() / 2
    }
}

/// The log's segments and the snapshots of a member, and the count of its starts.
fn files(disk: &MemDisk) -> Vec<PathBuf> {
    let mut files = vec![Path::new(DIR).join("boot")];
    for (dir, suffix) in [("wal", ".wal"), ("snap", ".snap")] {
        let dir = Path::new(DIR).join(dir);
        let names = disk.list(&dir).unwrap_or_default();
        files.extend(names.iter().filter(|name| name.ends_with(suffix)).map(|name| dir.join(name)));
    }
    files
}
