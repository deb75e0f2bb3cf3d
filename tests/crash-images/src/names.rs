//! The life of a log, cut off at every step: it is created, cut, released, recycled, closed, opened and repaired. Between
//! two syncs of a directory every subset of the names that were made, renamed or removed survives.

use kvd_vfs::{MemDisk, Rot};
use kvd_wal::{SnapshotRecord, Wal};

use crate::crash::{self, Attempt, Bounds};
use crate::log::{self, Call, METADATA, Script, dir, entry, hard_state, options, save};
use crate::plant;
use crate::run::{Counts, Section, Sink, Unit};

/// Four sectors: most saves cut.
const SEGMENT: u64 = 2048;

pub(crate) const NAMES: Section = Section {
    name: "log-names",
    about: "a log that is created, cut, released, recycled and closed, cut off at every step",
    units: |_| {
        let mut units: Vec<Unit> = vec![Box::new(creation)];
        // The steps are shared: each run plays the log from its beginning.
        units.extend((0..8).map(|part| Box::new(move |sink: &mut Sink<'_>| life(sink, part, 8)) as Unit));
        units
    },
};

pub(crate) const REPAIR: Section = Section {
    name: "log-repair",
    about: "opening a log with a torn tail, cut off at every step, and a second time at every step",
    units: |_| vec![Box::new(|sink| repair(sink, 1)), Box::new(|sink| repair(sink, 2))],
};

/// Creation with a first snapshot and without.
fn creation(sink: &mut Sink<'_>) {
    let first = (SnapshotRecord { index: 1, term: 1 }, hard_state(1, 0, 1));
    for (name, initial) in [("empty", None), ("snapshot", Some(first))] {
        let plant = sink.settings.plant;
        let work = |memory: &MemDisk| {
            let disk = plant::disk(plant, memory, None);
            Wal::create(disk, dir(), METADATA, initial.clone(), options(SEGMENT)).is_ok()
        };
        let base = MemDisk::new();
        let bounds = Bounds::full(sink);
        crash::at_every_step(
            sink,
            &format!("create-{name}"),
            &base,
            bounds,
            &work,
            &|image, attempt, counts| {
                let created = attempt.outcome;
                if attempt.finished && !created {
                    return Err("could not be created, and the power was on".to_owned());
                }
                let there = Wal::exists(&image.disk(), dir()).map_err(|e| e.to_string())?;
                if created && !there {
                    return Err("created, and gone".to_owned());
                }
                if !there {
                    counts.count("no log yet");
                    if !work(image) {
                        return Err("cannot be created again".to_owned());
                    }
                    image.crash_losing_all_unsynced();
                }
                let mut script = Script::new(SEGMENT);
                if let Some((snapshot, state)) = &initial {
                    script.begin_with(*snapshot, state.clone());
                }
                log::check(plant, image, &script, (0, 0), counts).map(drop)
            },
        );
    }
}

/// Everything that changes names: cuts into prepared and into recycled segments, releases that keep files and that
/// delete them, entries that are replaced across a cut, votes, commit indexes that wait, a clean end.
fn script() -> Script {
    let mut script = Script::new(SEGMENT);
    let mut index = 0;
    for round in 1..=4 {
        let term = round;
        for n in 0..4 {
            index += 1;
            let len = [900, 500, 1300, 100][n];
            script.push(save(vec![entry(index, term, len)], hard_state(term, 1 + round % 3, index - 1)));
        }
        // A commit index that waits for the next write.
        script.push(Call::Save {
            entries: vec![],
            hard_state: hard_state(term, 1 + round % 3, index),
            must_sync: false,
        });
        script.push(Call::Record(SnapshotRecord { index: index - 1, term }));
        if round % 2 == 0 {
            script.push(Call::Release(index - 1));
        }
        // Another leader replaces what was not committed.
        index += 2;
        script.push(save(
            vec![entry(index - 1, term, 700), entry(index, term, 900)],
            hard_state(term, 1, index - 2),
        ));
        script.push(save(vec![entry(index - 1, term + 1, 200)], hard_state(term + 1, 2, index - 2)));
        index -= 1;
    }
    script.push(Call::Release(index - 2));
    script.push(Call::Close);
    script
}

fn life(sink: &mut Sink<'_>, part: u64, of: u64) {
    let script = script();
    let (plant, bounds, base) = (sink.settings.plant, Bounds::full(sink), MemDisk::new());
    let work = |memory: &MemDisk| script.create_and_play(plant, memory);
    let check =
        |image: &MemDisk, attempt: &Attempt<Option<usize>>, counts: &mut Counts<'_>| match attempt.outcome {
            Some(done) => {
                let attempt = Attempt { outcome: done, finished: attempt.finished };
                log::check_played(plant, image, &script, &attempt, counts)
            }
            None if attempt.finished => Err("could not be created, and the power was on".to_owned()),
            // Creation has images of its own.
            None => Ok(()),
        };
    let mut step = 1 + part;
    while !crash::at_step(sink, "life", &base, step, bounds, &work, &check) {
        step += of;
    }
}

/// Images with a torn tail are opened; the power goes during that, `depth` times.
fn repair(sink: &mut Sink<'_>, depth: u32) {
    let script = Script::new(8 * 512).with((1..=3).map(|index| {
        let len = [300, 700, 1300][index as usize - 1];
        save(vec![entry(index, index, len)], hard_state(index, 1, index - 1))
    }));
    let base = MemDisk::new();
    let played = script.create_and_play(None, &base).filter(|calls| *calls == script.len());
    if sink.setup("base", played.ok_or("the script fails".to_owned())).is_none() {
        return;
    }
    base.crash_losing_all_unsynced();
    let path = dir().join("0000000000000000-0000000000000000.wal");
    // The last save is in the sectors 4 to 6: a part of them in each image.
    for lost in [vec![4], vec![5], vec![6], vec![4, 5], vec![5, 6], vec![4, 6]] {
        let torn = base.fork();
        let rotten = lost.iter().try_for_each(|sector| torn.rot(&path, Rot::Sector(*sector)));
        if sink.setup("torn", rotten.map_err(|e| e.to_string())).is_none() {
            return;
        }
        let name = format!("{lost:?}").replace(['[', ']', ' '], "").replace(',', "+");
        interrupted(sink, &format!("{depth}x-{name}"), &torn, &script, depth);
    }
}

/// Opens a log, the power going at each step; and so again on what that leaves, while `depth` lasts.
fn interrupted(sink: &mut Sink<'_>, case: &str, base: &MemDisk, script: &Script, depth: u32) {
    let plant = sink.settings.plant;
    let want = script.len() - 1;
    let work = |memory: &MemDisk| log::recover(plant, memory).map(drop).map_err(|error| error.to_string());
    if depth > 1 {
        // What an interrupted opening leaves, in two outcomes for each step.
        for step in 1.. {
            let disk = base.fork();
            disk.power_off_at(step);
            let finished = work(&disk).is_ok();
            for seed in 0..2 {
                let left = disk.fork();
                left.crash(seed);
                interrupted(sink, &format!("{case}/{step}.{seed}"), &left, script, depth - 1);
            }
            if finished {
                return;
            }
        }
    }
    let bounds = if case.starts_with("1x") { Bounds::full(sink) } else { Bounds::few(4, 2) };
    crash::at_every_step(sink, case, base, bounds, &work, &|image, attempt, counts| match &attempt.outcome {
        Err(error) if attempt.finished => Err(format!("cannot be opened: {error}")),
        _ => log::check(plant, image, script, (want, want), counts).map(drop),
    });
}
