//! The log's threads: one writes, one reads back what is no longer in memory.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvd_raftpb::codec;
use kvd_vfs::failpoint;
use kvd_wal::{Fetch, LogReader, SnapshotRecord, Wal};
use raft::eraftpb::HardState;

use crate::error::Fatal;
use crate::inbox::{Done, Inbox};
use crate::metrics::Metrics;
use crate::ready::Write;

/// Writes share a sync until their entries take this many bytes: as much as a disk writes in the time of a sync or two,
/// so that a long queue is acknowledged piece by piece, and the log's buffer has a bound.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// After so long without work the log's reader closes its file, whose segment may have been deleted.
const READER_REST: Duration = Duration::from_secs(5);

/// What the log's thread is to do.
pub(crate) enum Job {
    Write(Write),
    /// Segments that opening the log at the snapshot of this index does not need may go.
    Release(u64),
    /// Write what is left, say that this is the end, and close.
    Close(Option<HardState>),
}

/// The queue of the log's thread. It needs no bound of its own: raft bounds what a leader has uncommitted, and what it
/// has on its way to a follower.
#[derive(Clone)]
pub(crate) struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    pub(crate) fn new(sender: mpsc::Sender<Job>) -> Self {
        Self(sender)
    }

    pub(crate) fn put(&self, job: Job) {
        // The thread ends before its queue only after it has told the loop of a failure.
        let _ = self.0.send(job);
    }
}

/// Writes what the loop hands over: everything that waits goes out in one group, with one sync.
pub(crate) fn log_thread<R: Send>(
    mut wal: Wal,
    jobs: &mpsc::Receiver<Job>,
    inbox: &Inbox<R>,
    metrics: &Metrics,
) -> Result<(), kvd_wal::Error> {
    let mut group: Vec<Write> = Vec::new();
    while let Ok(job) = jobs.recv() {
        let mut next = Some(job);
        let mut bytes = 0;
        while let Some(job) = next.take() {
            match job {
                Job::Write(write) => {
                    bytes += write.entries.iter().map(codec::entry_len).sum::<usize>();
                    group.push(write);
                    if bytes < MAX_GROUP_BYTES {
                        next = jobs.try_recv().ok();
                    }
                }
                Job::Release(index) => {
                    flush(&mut wal, &mut group, inbox, metrics)?;
                    wal.release_to(index)?;
                }
                Job::Close(hard_state) => {
                    flush(&mut wal, &mut group, inbox, metrics)?;
                    wal.save(&[], hard_state.as_ref(), false)?;
                    return wal.close();
                }
            }
        }
        flush(&mut wal, &mut group, inbox, metrics)?;
    }
    Ok(())
}

fn flush<R: Send>(
    wal: &mut Wal,
    group: &mut Vec<Write>,
    inbox: &Inbox<R>,
    metrics: &Metrics,
) -> Result<(), kvd_wal::Error> {
    let Some(seq) = group.last().map(|write| write.seq) else { return Ok(()) };
    let (begun, before) = (Instant::now(), wal.log_bytes());
    let saves: Vec<kvd_wal::Save<'_>> = group
        .iter()
        .map(|write| kvd_wal::Save {
            snapshot: write.snapshot.as_ref().map(|s| SnapshotRecord { index: s.index, term: s.term }),
            entries: &write.entries,
            hard_state: write.hard_state.as_ref(),
            must_sync: true,
        })
        .collect();
    failpoint!("save-before");
    wal.save_group(&saves)?;
    failpoint!("save-after");
    metrics.wal_fsync_seconds.observe(begun.elapsed().as_secs_f64());
    metrics.wal_write_bytes.inc_by(wal.log_bytes() - before);
    group.clear();
    inbox.done(Done::Written(seq));
    Ok(())
}

/// Reads entries back for as long as somebody may ask.
pub(crate) fn read_thread<R: Send>(
    mut reader: LogReader,
    fetches: &mpsc::Receiver<Fetch>,
    inbox: &Inbox<R>,
) -> Result<(), Fatal> {
    loop {
        let fetch = match fetches.recv_timeout(READER_REST) {
            Ok(fetch) => fetch,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                reader.rest();
                match fetches.recv() {
                    Ok(fetch) => fetch,
                    Err(mpsc::RecvError) => return Ok(()),
                }
            }
        };
        match read_back(&mut reader, fetch) {
            Done::Failed(fatal) => return Err(fatal),
            done => inbox.done(done),
        }
    }
}

/// Carries out a fetch. Only damage ends the member: whatever else a disk or a system out of resources answers may be
/// over the next time, and the loop goes on without these entries.
pub fn read_back<R>(reader: &mut LogReader, fetch: Fetch) -> Done<R> {
    match reader.read(fetch.low, fetch.high, fetch.max_bytes) {
        Ok(answer) => Done::Fetched { fetch, answer },
        Err(error) if !is_passing(&error) => Done::Failed(error.into()),
        Err(error) => {
            tracing::warn!(%error, from = fetch.low, "entries of the log cannot be read for now");
            // Not from where it stopped: nobody knows where that is.
            reader.rest();
            Done::NotFetched(fetch)
        }
    }
}

/// Whether trying again may help: the disk, or the system, could not read. A segment that is missing is damage.
fn is_passing(error: &kvd_wal::Error) -> bool {
    matches!(error, kvd_wal::Error::Io { source, .. } if source.kind() != io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kvd_vfs::{Disk, MemDisk, Op};
    use raft::eraftpb::Entry;

    use super::*;
    use crate::config::Limits;

    const DIR: &str = "/wal";

    fn create(disk: &Disk) -> Wal {
        let options =
            kvd_wal::Options { segment_bytes: 1 << 20, prepare_ahead: false, ..kvd_wal::Options::default() };
        Wal::create(disk.clone(), Path::new(DIR), b"", None, options).unwrap()
    }

    /// Entries that take that many bytes together.
    fn entries(from: u64, bytes: usize) -> Vec<Entry> {
        let mut entry = Entry::default();
        (entry.term, entry.index, entry.data) = (1, from, vec![7; bytes].into());
        while codec::entry_len(&entry) > bytes {
            entry.data = entry.data.slice(1..);
        }
        assert_eq!(codec::entry_len(&entry), bytes, "a length that an entry can have");
        vec![entry]
    }

    /// The writes that were reported when all of these waited for the log at once.
    fn syncs(writes: Vec<Vec<Entry>>) -> Vec<u64> {
        let (sender, jobs) = mpsc::channel();
        for (seq, entries) in (1..).zip(writes) {
            let write = Write { seq, snapshot: None, entries, hard_state: None };
            sender.send(Job::Write(write)).unwrap();
        }
        sender.send(Job::Close(None)).unwrap();
        let inbox = Inbox::<()>::new(Limits::default());
        log_thread(create(&MemDisk::new().disk()), &jobs, &inbox, &Metrics::default()).unwrap();
        let done = inbox.take(Default::default(), 0).0.done.into_iter();
        done.map(|done| if let Done::Written(seq) = done { seq } else { panic!("a failure") }).collect()
    }

    #[test]
    fn writes_share_a_sync_until_their_entries_reach_the_bound() {
        let three = |bytes| syncs(vec![entries(1, bytes), entries(2, 100), entries(3, 100)]);
        assert_eq!(three(100), [3]);
        assert_eq!(three(MAX_GROUP_BYTES - 101), [3], "two do not reach it");
        assert_eq!(three(MAX_GROUP_BYTES - 100), [2, 3], "two do");
        assert_eq!(three(MAX_GROUP_BYTES - 1), [2, 3]);
        assert_eq!(three(MAX_GROUP_BYTES), [1, 3]);
        assert_eq!(three(MAX_GROUP_BYTES + 1), [1, 3]);
    }

    #[test]
    fn what_an_entry_takes_beside_its_data_counts() {
        let many = |from: u64| -> Vec<Entry> {
            let entry = |index| {
                let mut entry = Entry::default();
                (entry.term, entry.index, entry.context) = (1, index, vec![7; 1 << 20].into());
                entry
            };
            (from..from + 16).map(entry).collect()
        };
        assert_eq!(syncs(vec![many(1), many(17), many(33)]), [1, 2, 3]);
    }

    #[test]
    fn only_damage_is_a_failure_to_read_back() {
        let memory = MemDisk::new();
        let mut wal = create(&memory.disk());
        wal.save(&entries(1, 1000), None, true).unwrap();
        let mut reader = wal.reader();
        let mut log = kvd_wal::LogStorage::default();
        log.append(&entries(1, 1000));
        log.append(&entries(2, 1000));
        log.set_cache_bytes(0);
        log.evict(1);
        let asked = raft::Storage::entries(&log, 1, 2, None, raft::GetEntriesContext::empty(true));
        assert!(asked.is_err());
        let fetch = log.next_fetch().expect("it is not in memory");
        let mut read = || read_back::<()>(&mut reader, fetch);
        // EIO, ENOMEM, ENFILE, EMFILE.
        for errno in [MemDisk::EIO, 12, 23, 24] {
            memory.fail_nth(Op::Read, 1, errno);
            assert!(matches!(read(), Done::NotFetched(again) if again == fetch), "{errno}");
            assert!(matches!(read(), Done::Fetched { .. }), "{errno} is over");
        }
        let path = Path::new(DIR).join(&memory.disk().list(Path::new(DIR)).unwrap()[0]);
        let mut bytes = memory.read_file(&path).unwrap();
        let middle = bytes.windows(100).position(|window| window == [7; 100]).unwrap() + 50;
        bytes[middle] ^= 1;
        memory.overwrite_file(&path, bytes).unwrap();
        reader.rest();
        let done = read_back::<()>(&mut reader, fetch);
        assert!(matches!(done, Done::Failed(Fatal::Wal(kvd_wal::Error::Corrupt { .. }))));
        memory.disk().remove_file(&path).unwrap();
        reader.rest();
        let done = read_back::<()>(&mut reader, fetch);
        assert!(matches!(done, Done::Failed(Fatal::Wal(kvd_wal::Error::Io { .. }))), "a segment is missing");
    }
}
