//! A member's disk: its log and its files, each operation done at a moment of its own.
//!
//! An operation is done when it ends, so what a power loss finds is an operation that has not begun, one that is cut off
//! in its middle, or one that is done and of which nobody was told.

use kvd_node::driver::{Done, Write, discard, load, read_back};
use kvd_vfs::MemDisk;
use kvd_wal::Wal;

use crate::fault::Fault;
use crate::invariants::promotion;
use crate::machine::Machine;
use raft::eraftpb::SnapshotMetadata;

use crate::member::{Helper, Job, State};
use crate::plan::MS;
use crate::trace::{Level, Micros};
use crate::world::{Event, World, brief};

impl World {
    pub(crate) fn queue_write(&mut self, m: usize, write: Write) {
        let id = self.members[m].id;
        self.trace.add(
            Level::Detail,
            self.now,
            id,
            format_args!(
                "writes {}: {} entries{}{}{}",
                write.seq,
                write.entries.len(),
                write
                    .entries
                    .first()
                    .map(|e| format!(" from {} (term {})", e.index, e.term))
                    .unwrap_or_default(),
                write
                    .hard_state
                    .as_ref()
                    .map(|s| format!(", term {} vote {} commit {}", s.term, s.vote, s.commit))
                    .unwrap_or_default(),
                write.snapshot.as_ref().map(|s| format!(", snapshot {}", s.index)).unwrap_or_default(),
            ),
        );
        let lasts: Vec<u64> = self.members.iter().map(|member| member.durable.last()).collect();
        let Some(run) = &mut self.members[m].running else { return };
        let verdict = promotion::write(&write, run.core.raft(), |id| lasts[(id - 1) as usize]);
        self.expect(verdict);
        let Some(run) = &mut self.members[m].running else { return };
        let mut verdict = self.invariants.leader_append_only.write(id, &write, run.shadow.last());
        // A sole voter elects itself in one step, and proposes what waits in that step, too: one write holds the vote, and
        // entries with what its clients asked of it. If it loses power before that is durable, it leads the same term once
        // more, with what they ask of it then. Nobody has seen the first time: what it sends waits for the write, and so
        // does the commit. So its entries count once they are durable. With others, their votes come after the own one.
        let sole = run.core.conf_state().voters == [id];
        run.shadow.write(&write, |before, entry| {
            if verdict.is_ok() && !sole {
                verdict = self.invariants.entry(id, before, entry);
            }
        });
        run.log.push_back(Job::Write(write, sole));
        self.wake(m);
        self.start_log(m);
        self.expect(verdict);
    }

    fn disk_delay(&mut self, m: usize) -> Micros {
        if self.members[m].slow_until > self.now {
            self.count("slow disk operations");
            if !std::mem::replace(&mut self.members[m].slow_felt, true) {
                self.happened(Fault::SlowDisk);
            }
            return self.rng.within(10 * MS..800 * MS);
        }
        match self.rng.within(0..100) {
            0 => self.rng.within(5 * MS..50 * MS),
            _ => self.rng.within(50..3 * MS),
        }
    }

    fn start_log(&mut self, m: usize) {
        let life = self.members[m].life;
        match &mut self.members[m].running {
            Some(run) if !run.log_busy && !run.log.is_empty() => run.log_busy = true,
            _ => return,
        }
        let at = self.now + self.disk_delay(m);
        self.at(at, Event::Log { member: m, life });
    }

    /// The log has done its next job: a release, or some of the writes that wait, as one group.
    pub(crate) fn log_done(&mut self, m: usize) {
        let done = self.do_log_job(m);
        if let Some(run) = &mut self.members[m].running {
            run.log_busy = false;
            let failed = done.is_err();
            match done {
                Ok(Some(seq)) => run.inbox.done(Done::Written(seq)),
                Ok(None) => {}
                Err(error) => run.inbox.done(Done::Failed(error.into())),
            }
            self.wake(m);
            if !failed {
                self.start_log(m);
            }
        }
        self.notice_power_loss(m);
    }

    /// Does it, and says which write is durable then.
    pub(crate) fn do_log_job(&mut self, m: usize) -> Result<Option<u64>, kvd_wal::Error> {
        let member = &mut self.members[m];
        let Some(run) = &mut member.running else { return Ok(None) };
        if let Some(Job::Release(index)) = run.log.front() {
            let index = *index;
            run.log.pop_front();
            run.wal.release_to(index)?;
            return Ok(None);
        }
        let waiting = run.log.iter().take_while(|job| matches!(job, Job::Write(..))).count();
        if waiting == 0 {
            return Ok(None);
        }
        let some = 1 + self.rng.index(waiting);
        let group: Vec<&Write> = run
            .log
            .iter()
            .take(some)
            .filter_map(|job| if let Job::Write(write, _) = job { Some(write) } else { None })
            .collect();
        save(&mut run.wal, &group)?;
        let mut last = 0;
        for job in run.log.drain(..some).collect::<Vec<_>>() {
            if let Job::Write(write, late) = job {
                last = write.seq;
                self.is_durable(m, &write, late);
            }
        }
        Ok(Some(last))
    }

    /// A write has reached the disk. `late`: its entries count as written only now.
    pub(crate) fn is_durable(&mut self, m: usize, write: &Write, late: bool) {
        let id = self.members[m].id;
        let mut verdict = Ok(());
        self.members[m].durable.written(write, |before, entry| {
            if verdict.is_ok() && late {
                verdict = self.invariants.entry(id, before, entry);
            }
        });
        self.expect(verdict);
    }

    pub(crate) fn begin_help(&mut self, m: usize, helper: Helper) {
        let (id, life) = (self.members[m].id, self.members[m].life);
        let kind = match &helper {
            Helper::Save(metadata, _) => {
                self.tell(id, format_args!("takes a snapshot at {}", metadata.index));
                0
            }
            Helper::Load(message) => {
                self.tell(id, format_args!("reads the snapshot of {}", brief(message)));
                1
            }
            Helper::Discard(_) => 2,
            Helper::Fetch(_) => 3,
        };
        let delay = 3 * self.disk_delay(m);
        let Some(run) = &mut self.members[m].running else { return };
        run.next_helper += 1;
        let number = run.next_helper;
        run.helpers.insert(number, helper);
        let at = (self.now + delay).max(run.helper_ends[kind] + 1);
        run.helper_ends[kind] = at;
        self.at(at, Event::Helper { member: m, life, helper: number });
    }

    pub(crate) fn helper_done(&mut self, m: usize, number: u64) {
        let snapshot = |helper: &Helper| matches!(helper, Helper::Save(..) | Helper::Load(_));
        let run = self.members[m].running.as_ref();
        if run.and_then(|run| run.helpers.get(&number)).is_some_and(snapshot) {
            self.arm_interruption(m);
        }
        let done = self.do_help(m, number);
        if let Some(run) = &self.members[m].running
            && let Some(done) = done
        {
            run.inbox.done(done);
        }
        self.wake(m);
        self.start_log(m);
        self.notice_power_loss(m);
    }

    /// The file of a snapshot is there: it holds what it says.
    fn check_snapshot(&mut self, m: usize, metadata: &SnapshotMetadata) {
        let id = self.members[m].id;
        let Some(run) = &self.members[m].running else { return };
        let verdict = match load::<Machine>(&run.snapshotter, metadata) {
            Ok(state) => self.invariants.snapshot(
                id,
                metadata.index,
                metadata.get_conf_state(),
                (state.machine(), &state.node_state()),
            ),
            // Its disk may have been told to fail; then it stops when it needs the file.
            Err(_) => Ok(()),
        };
        self.expect(verdict);
    }

    /// Counts the failures that the disk was told to have, and has had.
    pub(crate) fn note_failures(&mut self, m: usize) {
        let member = &mut self.members[m];
        let found = (member.disk.failures(MemDisk::EIO), member.disk.failures(MemDisk::ENOSPC));
        let seen = std::mem::replace(&mut member.failures_seen, found);
        if found.0 > seen.0 {
            self.happened(Fault::FailedSync);
        }
        if found.1 > seen.1 {
            self.happened(Fault::FullDisk);
        }
    }

    /// Does a file operation.
    pub(crate) fn do_help(&mut self, m: usize, number: u64) -> Option<Done<State>> {
        let id = self.members[m].id;
        let run = self.members[m].running.as_mut()?;
        Some(match run.helpers.remove(&number)? {
            Helper::Save(metadata, state) => {
                let mut state = Some(state);
                let saved = run.snapshotter.save(&metadata, &mut |out| match state.take() {
                    Some(state) => state.write(out),
                    None => Err(std::io::Error::other("a frozen state is written once")),
                });
                match saved {
                    Ok(bytes) => {
                        self.count("snapshots taken");
                        self.check_snapshot(m, &metadata);
                        Done::SnapshotSaved { metadata: Box::new(metadata), bytes }
                    }
                    Err(error) => Done::Failed(error.into()),
                }
            }
            Helper::Load(message) => {
                let metadata = message.get_snapshot().get_metadata();
                match load::<Machine>(&run.snapshotter, metadata) {
                    Ok(restored) => {
                        self.count("snapshots read back");
                        Done::SnapshotLoaded { message: Box::new(message), restored }
                    }
                    Err(error) => {
                        self.tell(id, format_args!("cannot read the snapshot: {error}"));
                        self.count("snapshots that could not be read back");
                        Done::SnapshotRejected
                    }
                }
            }
            Helper::Fetch(fetch) => {
                let done = read_back(&mut run.reader, fetch);
                match done {
                    Done::Fetched { .. } => self.count("entries read back"),
                    _ => self.count("entries that could not be read back"),
                }
                done
            }
            Helper::Discard(newest) => match discard(&run.snapshotter, newest) {
                Ok(oldest) => {
                    if let Some(oldest) = oldest {
                        run.log.push_back(Job::Release(oldest));
                    }
                    return None;
                }
                Err(error) => Done::Failed(error),
            },
        })
    }
}

/// Saves a group as the node's own thread does.
pub(crate) fn save(wal: &mut Wal, group: &[&Write]) -> Result<(), kvd_wal::Error> {
    let saves: Vec<kvd_wal::Save<'_>> = group
        .iter()
        .map(|write| kvd_wal::Save {
            snapshot: write
                .snapshot
                .as_ref()
                .map(|s| kvd_wal::SnapshotRecord { index: s.index, term: s.term }),
            entries: &write.entries,
            hard_state: write.hard_state.as_ref(),
            must_sync: true,
        })
        .collect();
    wal.save_group(&saves)
}
