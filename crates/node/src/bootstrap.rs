//! A member's directory, and how a member begins: as one of the first, as a joiner, or as itself again.
//!
//! ```text
//! DIR/lock     held by the process that runs the member
//! DIR/boot     how often the member was started (decimal) and a check over that (16 hex digits), renamed into place before
//!              each start. Request ids are made of it: a number that rotted to a lower one would bring old ones back
//! DIR/snap/    snapshots
//! DIR/wal/     the log; its metadata record says whose directory this is
//! ```
//! `wal.new` and `wal.old` are those of a recovery ([`crate::recover`]) that was interrupted, and go when the directory is
//! opened.
//!
//! A member exists from the moment `DIR/wal` does, and that appears whole or not at all. Every *initial* member writes
//! the same synthetic snapshot first (index 1, term 1: the conf state and the member list, an empty state machine) and
//! creates a log that records it, together with the hard state that commits it. So all of them agree on who belongs to
//! the cluster before they ever speak, and a joiner cannot miss it. A *joiner* creates an empty log; the leader gives
//! it everything else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Identity, Member, Membership};
use kvd_snap::Snapshotter;
use kvd_vfs::{Disk, Lock, OpenMode, failpoint};
use kvd_wal::{LogStorage, SnapshotRecord, Wal};
use prost::Message as _;
use raft::eraftpb::{ConfState, HardState, SnapshotMetadata};

use crate::config::Config;
use crate::core::{Beginning, Core, fnv1a};
use crate::error::Fatal;
use crate::event::Subscribers;
use crate::handle::{Shown, Status};
use crate::inbox::Inbox;
use crate::logger::logger;
use crate::metrics::Metrics;
use crate::replicated::{self, Frozen, Replicated};
use crate::run::{Attended, Node};
use crate::session::Sessions;
use crate::state_machine::StateMachine;
use crate::threads;

/// Index and term of the snapshot that every initial member starts from.
const BOOTSTRAP: u64 = 1;

/// The cluster's id: a hash (FNV-1a, 64 bit) of the initial members' peer URLs in order. Never 0.
pub fn cluster_id(initial_peer_urls: &[String]) -> u64 {
    let bytes = initial_peer_urls.iter().flat_map(|url| url.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, fnv1a).max(1)
}

/// The members of a new cluster: member i has the i-th URL, counted from 1.
pub fn initial_members(peer_urls: &[String]) -> Vec<Member> {
    (1..)
        .zip(peer_urls)
        .map(|(id, url)| Member { id, peer_urls: vec![url.clone()], ..Member::default() })
        .collect()
}

/// How a member begins that has no directory yet.
#[derive(Debug, Clone)]
pub enum Start {
    /// As one of the first members of a new cluster, all of which start with this list.
    Initial {
        /// See [`cluster_id`].
        cluster_id: u64,
        /// See [`initial_members`].
        members: Vec<Member>,
    },
    /// As a new member of a running cluster, which told its id.
    Join {
        /// The cluster's id.
        cluster_id: u64,
    },
}

/// A member's directory, locked for this process.
#[derive(Debug)]
pub struct Home {
    disk: Disk,
    dir: PathBuf,
    lock: Box<dyn Lock>,
}

/// What a directory says of its member, without anything in it being changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Whose directory it is.
    pub identity: Identity,
    /// The member list of its newest snapshot. `None` for a joiner that never got one.
    pub membership: Option<Membership>,
}

impl Home {
    /// Locks a member's directory, creating it if need be.
    ///
    /// # Errors
    /// [`Fatal::Locked`] while another process has it; [`Fatal::File`].
    pub fn open(disk: Disk, dir: &Path) -> Result<Self, Fatal> {
        let file = |source| Fatal::File { path: dir.to_owned(), source };
        disk.create_dir_all(dir).map_err(file)?;
        let lock = disk.lock(&dir.join("lock")).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => Fatal::Locked(dir.to_owned()),
            _ => file(source),
        })?;
        Self::settle_recovery(&disk, dir).map_err(file)?;
        Ok(Self { disk, dir: dir.to_owned(), lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.dir.join("wal")
    }

    pub(crate) fn snapshotter(&self) -> Result<Snapshotter, Fatal> {
        Ok(Snapshotter::open(self.disk.clone(), &self.dir.join("snap"))?)
    }

    /// Reads whose directory this is. `None` if no member has begun here.
    ///
    /// # Errors
    /// If the log or the newest snapshot cannot be read.
    pub fn known(&self) -> Result<Option<Known>, Fatal> {
        if !Wal::exists(&self.disk, &self.wal_dir())? {
            return Ok(None);
        }
        let identity = read_identity(&Wal::read_metadata(&self.disk, &self.wal_dir())?);
        let mut recorded = self.recorded()?;
        recorded.reverse();
        let snapshotter = self.snapshotter()?;
        let membership = recorded.iter().find_map(|(term, index)| {
            // Damage is dealt with when the member starts.
            let mut reader = snapshotter.read(*term, *index).ok()?;
            replicated::read_membership(&mut reader).ok()
        });
        Ok(Some(Known { identity, membership }))
    }

    /// (term, index) of the snapshots that the log recorded, oldest first.
    pub(crate) fn recorded(&self) -> Result<Vec<(u64, u64)>, Fatal> {
        let recorded = Wal::recorded_snapshots(&self.disk, &self.wal_dir())?;
        Ok(recorded.iter().map(|record| (record.term, record.index)).collect())
    }

    /// Counts the starts, durably: request ids of this start must differ from those of every start before.
    fn next_boot(&self) -> Result<u64, Fatal> {
        let (path, temp) = (self.dir.join("boot"), self.dir.join("boot.tmp"));
        let file = |source| Fatal::File { path: path.clone(), source };
        let mut boot = 1;
        if self.disk.exists(&path).map_err(file)? {
            let last = self.disk.open(&path, OpenMode::Read).map_err(file)?;
            let mut text = [0; 64];
            let len = last.read_at(&mut text, 0).map_err(file)?;
            let damaged = "damaged: the number and its check do not fit; bring the file back, or remove this member \
                           and add it under a new id";
            let last = decode_boot(&text[..len]).ok_or_else(|| file(std::io::Error::other(damaged)))?;
            boot = last.checked_add(1).ok_or_else(|| file(std::io::Error::other("too large")))?;
        }
        let mut new = self.disk.open(&temp, OpenMode::Truncate).map_err(file)?;
        new.write_all_at(encode_boot(boot).as_bytes(), 0).map_err(file)?;
        failpoint!("boot-before-sync");
        new.sync_data().map_err(file)?;
        drop(new);
        failpoint!("boot-before-rename");
        self.disk.rename(&temp, &path).map_err(file)?;
        failpoint!("boot-after-rename");
        if planted(Bug::BootNotSynced) {
            return Ok(boot);
        }
        self.disk.sync_dir(&self.dir).map_err(file)?;
        failpoint!("boot-after-sync");
        Ok(boot)
    }

    /// Opens the member that lives here. `start` tells how it begins if it has not begun; `machine` is its state
    /// machine, empty, and the same on every initial member.
    ///
    /// # Errors
    /// [`Fatal::NotOurs`] for the directory of another member; whatever the log, the snapshots or raft answer.
    pub fn start<S: StateMachine>(
        self,
        config: Config,
        start: &Start,
        mut machine: S,
    ) -> Result<Node<S>, Fatal> {
        let snapshotter = self.snapshotter()?;
        let options = kvd_wal::Options {
            segment_bytes: config.segment_bytes,
            prepare_ahead: config.prepare_segments_ahead,
            replay_bytes: config.log_cache_bytes,
        };
        if !Wal::exists(&self.disk, &self.wal_dir())? {
            self.begin(&config, start, &snapshotter, &mut machine, options.clone())?;
        }
        // Before anything is touched: a directory of somebody else stays as it is.
        let identity = read_identity(&Wal::read_metadata(&self.disk, &self.wal_dir())?);
        let wanted = match start {
            Start::Initial { cluster_id, .. } | Start::Join { cluster_id } => *cluster_id,
        };
        if identity.member_id != config.id || identity.cluster_id != wanted {
            return Err(Fatal::NotOurs {
                path: self.dir.clone(),
                found_member: identity.member_id,
                found_cluster: identity.cluster_id,
                member: config.id,
                cluster: Some(wanted),
            });
        }
        let recorded = self.recorded()?;
        snapshotter.remove_unrecorded(&recorded)?;
        let snapshot = match snapshotter.newest_of(&recorded)? {
            Some(snapshot) => snapshot,
            // A joiner that never got one begins with an empty log.
            None if recorded.iter().all(|(_, index)| *index == 0) => SnapshotMetadata::default(),
            None => return Err(Fatal::NoSnapshot(self.dir.join("snap"))),
        };
        let at = SnapshotRecord { index: snapshot.index, term: snapshot.term };
        let (wal, replay) = Wal::open(self.disk.clone(), &self.wal_dir(), at, options)?;

        let mut state = Replicated {
            membership: Arc::new(Membership::default()),
            sessions: Sessions::default(),
            machine,
        };
        if snapshot.index > 0 {
            state.install(threads::load::<S>(&snapshotter, &snapshot)?);
        }
        let boot = self.next_boot()?;
        tracing::info!(
            member = config.id,
            cluster = format_args!("{:016x}", identity.cluster_id),
            boot,
            snapshot = snapshot.index,
            log = wal.last_index(),
            "member opened"
        );
        if let Some(torn) = &replay.torn {
            tracing::warn!(
                ?torn,
                "the log ended in a write that was cut off; nothing of it was acknowledged"
            );
        }
        let shown = Shown {
            subscribers: Subscribers::default(),
            refreshing: false,
            status: Status { id: config.id, cluster_id: identity.cluster_id, ..Status::default() },
            membership: state.membership.clone(),
            progress: Arc::default(),
        };
        let inbox = Arc::new(Inbox::new(config.limits.clone()));
        let mut storage = LogStorage::recovered(snapshot.clone(), replay, wal.reader());
        storage.set_cache_bytes(config.log_cache_bytes);
        let core = Core::new(config, Beginning { storage, snapshot, state, boot }, &logger())?;
        Ok(Node {
            core,
            inbox: Attended(inbox),
            shown: Arc::new(Mutex::new(shown)),
            wal,
            snapshotter,
            metrics: Metrics::default(),
            lock: self.lock,
        })
    }

    /// Creates what a member begins with. The log comes last: with it the member exists.
    fn begin<S: StateMachine>(
        &self,
        config: &Config,
        start: &Start,
        snapshotter: &Snapshotter,
        machine: &mut S,
        options: kvd_wal::Options,
    ) -> Result<(), Fatal> {
        let (cluster_id, initial) = match start {
            Start::Join { cluster_id } => (*cluster_id, None),
            Start::Initial { cluster_id, members } => {
                let mut metadata = SnapshotMetadata::default();
                metadata.index = BOOTSTRAP;
                metadata.term = BOOTSTRAP;
                let voters: Vec<u64> = members.iter().map(|member| member.id).collect();
                metadata.set_conf_state(ConfState::from((voters, Vec::new())));
                let membership =
                    Membership { cluster_id: *cluster_id, members: members.clone(), removed: Vec::new() };
                let mut frozen = Some(Frozen::of(membership, machine.freeze()));
                failpoint!("begin-before-snapshot");
                snapshotter.save(&metadata, &mut |out| match frozen.take() {
                    Some(frozen) => frozen.write(out),
                    None => Err(std::io::Error::other("a frozen state is written once")),
                })?;
                let mut hard_state = HardState::default();
                hard_state.term = BOOTSTRAP;
                hard_state.commit = BOOTSTRAP;
                (*cluster_id, Some((SnapshotRecord { index: BOOTSTRAP, term: BOOTSTRAP }, hard_state)))
            }
        };
        let identity = Identity { cluster_id, member_id: config.id }.encode_to_vec();
        failpoint!("begin-before-log");
        Wal::create(self.disk.clone(), &self.wal_dir(), &identity, initial, options)?.close()?;
        failpoint!("begin-after-log");
        Ok(())
    }
}

/// The content of the file `boot`.
fn encode_boot(boot: u64) -> String {
    let check = boot.to_le_bytes().into_iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
    format!("{boot} {check:016x}\n")
}

/// The reverse of [`encode_boot`]; `None` if it is not exactly what that makes.
fn decode_boot(text: &[u8]) -> Option<u64> {
    let boot = std::str::from_utf8(text).ok()?.split(' ').next()?.parse().ok()?;
    (text == encode_boot(boot).as_bytes() || planted(Bug::BootUnchecked)).then_some(boot)
}

pub(crate) fn read_identity(metadata: &[u8]) -> Identity {
    // A log that this crate did not write has no identity of ours; nobody has member id 0, so it is refused as such.
    Identity::decode(metadata).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_count_is_read_as_written_and_every_flipped_bit_is_seen() {
        for boot in [1, 9, 10, 4711, u64::MAX] {
            let mut text = encode_boot(boot).into_bytes();
            assert!(text.len() < 64, "what is read of the file");
            assert_eq!(decode_boot(&text), Some(boot));
            for bit in 0..text.len() * 8 {
                text[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode_boot(&text), None, "{boot}: bit {bit}");
                text[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(decode_boot(&text[..text.len() - 1]), None);
        }
        for bad in ["", "1", "1\n", " ", "x 1"] {
            assert_eq!(decode_boot(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_cluster_id_depends_on_every_url_and_on_their_order() {
        let id = |urls: &[&str]| cluster_id(&urls.iter().map(|url| url.to_string()).collect::<Vec<_>>());
        assert_ne!(id(&["http://a:1", "http://b:1"]), id(&["http://b:1", "http://a:1"]));
        assert_ne!(id(&["http://a:1"]), id(&["http://a:12"]));
        assert_ne!(id(&[]), 0);
    }
}
