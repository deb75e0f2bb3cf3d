//! A member's disk: its log and its files, each operation done at a moment of its own.
//!
//! An operation is done when it ends, so what a power loss finds is an operation that has not begun, one that is cut off
//! in its middle, or one that is done and of which nobody was told.

use kvd_node::driver::{Done, Write, discard, load, read_back};
use kvd_wal::Wal;

use crate::machine::Machine;
use crate::member::{Helper, Job, State};
use crate::mutation::Mutation;
use crate::plan::MS;
use crate::trace::{Level, Micros};
use crate::world::{Event, World, brief};

impl World {
    pub(crate) fn queue_write(&mut self, m: usize, mut write: Write) {
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
        let Some(run) = &mut self.members[m].running else { return };
        let mut verdict = Ok(());
        // A sole voter elects itself in one step, and proposes what waits in that step, too: one write holds the vote, and
        // entries with what its clients asked of it. If it loses power before that is durable, it leads the same term once
        // more, with what they ask of it then. Nobody has seen the first time: what it sends waits for the write, and so
        // does the commit. So its entries count once they are durable. With others, their votes come after the own one.
        let sole = self.plan.members == 1;
        run.shadow.write(&write, |before, entry| {
            if verdict.is_ok() && !sole {
                verdict = self.invariants.log_matching.entry(id, before, entry);
            }
        });
        match self.mutation {
            Some(Mutation::AckBeforeSync) => run.inbox.done(Done::Written(write.seq)),
            Some(Mutation::VoteForgotten) => {
                if let Some(state) = &mut write.hard_state {
                    state.vote = 0;
                }
            }
            _ => {}
        }
        run.log.push_back(Job::Write(write));
        self.wake(m);
        self.start_log(m);
        self.expect(verdict);
    }

    fn disk_delay(&mut self, m: usize) -> Micros {
        if self.members[m].slow_until > self.now {
            self.count("slow disk operations");
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
            match (done, self.mutation) {
                (Ok(Some(_)), Some(Mutation::AckBeforeSync)) => {}
                (Ok(Some(seq)), _) => run.inbox.done(Done::Written(seq)),
                (Ok(None), _) => {}
                (Err(error), _) => run.inbox.done(Done::Failed(error.into())),
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
        let waiting = run.log.iter().take_while(|job| matches!(job, Job::Write(_))).count();
        if waiting == 0 {
            return Ok(None);
        }
        let some = 1 + self.rng.index(waiting);
        let group: Vec<&Write> = run
            .log
            .iter()
            .take(some)
            .filter_map(|job| if let Job::Write(write) = job { Some(write) } else { None })
            .collect();
        match save(&mut run.wal, &group, self.mutation) {
            Err(_) if self.mutation == Some(Mutation::FailedSyncIgnored) && !member.disk.is_off() => {}
            other => other?,
        }
        let mut last = 0;
        for job in run.log.drain(..some).collect::<Vec<_>>() {
            if let Job::Write(write) = job {
                last = write.seq;
                self.is_durable(m, &write);
            }
        }
        Ok(Some(last))
    }

    /// A write has reached the disk.
    pub(crate) fn is_durable(&mut self, m: usize, write: &Write) {
        let id = self.members[m].id;
        let (sole, mut verdict) = (self.plan.members == 1, Ok(()));
        self.members[m].durable.written(write, |before, entry| {
            if verdict.is_ok() && sole {
                verdict = self.invariants.log_matching.entry(id, before, entry);
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

    /// Does a file operation.
    pub(crate) fn do_help(&mut self, m: usize, number: u64) -> Option<Done<State>> {
        let mutation = self.mutation;
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
                        let id = self.members[m].id;
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
                        let too_far = if mutation == Some(Mutation::ReleasedTooFar) { 100 } else { 0 };
                        run.log.push_back(Job::Release(oldest + too_far));
                    }
                    return None;
                }
                Err(error) => Done::Failed(error),
            },
        })
    }
}

/// Saves a group as the node's own thread does.
pub(crate) fn save(
    wal: &mut Wal,
    group: &[&Write],
    mutation: Option<Mutation>,
) -> Result<(), kvd_wal::Error> {
    let shorten = |write: &Write| match mutation {
        Some(Mutation::EntryNotWritten) if write.entries.len() > 1 => write.entries.len() - 1,
        _ => write.entries.len(),
    };
    let saves: Vec<kvd_wal::Save<'_>> = group
        .iter()
        .map(|write| kvd_wal::Save {
            snapshot: write
                .snapshot
                .as_ref()
                .filter(|_| mutation != Some(Mutation::InstallNotRecorded))
                .map(|s| kvd_wal::SnapshotRecord { index: s.index, term: s.term }),
            entries: &write.entries[..shorten(write)],
            hard_state: write.hard_state.as_ref(),
            must_sync: true,
        })
        .collect();
    wal.save_group(&saves)
}
