//! The sections of members: see [`crate::member`].
//!
//! The oracle: a member starts again whatever its last start or life left. It is the same member of the same cluster;
//! each start has a number of its own, above all before; term, vote and commit index do not go back; every command that
//! was answered is in its state, in order and once, and nothing that was not proposed.

use bytes::Bytes;
use kvd_node::{Home, Start};
use kvd_vfs::{MemDisk, Vfs as _};

use crate::crash::{self, Attempt, Bounds};
use crate::member::{Life, dir, initial};
use crate::plant::{self, Plant};
use crate::run::{Counts, Section, Sink, Unit};

pub(crate) const FIRST: Section = Section {
    name: "member-first-boot",
    about: "the first start of a member, as one of the first and as a joiner, cut off at every step, and then once more",
    units: |_| {
        let mut units: Vec<Unit> = vec![
            Box::new(|sink| first_boot(sink, "initial", &initial())),
            Box::new(|sink| first_boot(sink, "join", &join())),
        ];
        units.extend((0..8).map(|part| Box::new(move |sink: &mut Sink<'_>| twice(sink, part, 8)) as Unit));
        units
    },
};

pub(crate) const RESTART: Section = Section {
    name: "member-restart",
    about: "a restart of a member that has a snapshot and a log behind it, closed, killed and torn, cut off at every step",
    units: |_| {
        let ends = [End::Closed, End::Killed, End::Torn];
        ends.map(|end| Box::new(move |sink: &mut Sink<'_>| restart(sink, end)) as Unit).into()
    },
};

pub(crate) const LIFE: Section = Section {
    name: "member-life",
    about: "a sole member that writes, takes snapshots, records them and releases its log, cut off at every step",
    units: |_| {
        (0..16).map(|part| Box::new(move |sink: &mut Sink<'_>| life(sink, part, 16)) as Unit).collect()
    },
};

fn join() -> Start {
    let Start::Initial { cluster_id, .. } = initial() else { unreachable!("it is that") };
    Start::Join { cluster_id }
}

/// What a member was told, or told others, before its power went.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Its start had come to an end, and it could have spoken. The number of the start.
    boot: u64,
    /// Term, vote and commit index that were durable at least.
    hard_state: (u64, u64, u64),
    /// Commands that were answered.
    answered: usize,
    /// What it ended with.
    error: Option<String>,
}

/// Command n: of many sizes.
fn command(n: usize) -> Bytes {
    let len = [30, 300, 700, 90][n % 4] + n;
    Bytes::from((0..len).map(|i| (i * 7 + n * 31) as u8).collect::<Vec<u8>>())
}

/// Starts a member and proposes the commands from one to another.
fn run(plant: Option<Plant>, memory: &MemDisk, start: &Start, from: usize, to: usize, known: &mut Known) {
    let mut life = match Life::start(plant, memory, start) {
        Ok(life) => life,
        Err(error) => return known.error = Some(error),
    };
    known.boot = life.boot;
    known.hard_state = known.hard_state.max(life.hard_state());
    for n in from..to {
        match life.propose(command(n)) {
            Ok(()) => known.answered = n + 1,
            Err(error) => return known.error = Some(error),
        }
    }
    if to > from {
        // It votes for itself before it leads, and what is answered is committed.
        let (term, vote, _) = life.hard_state();
        known.hard_state = (term, vote, 0);
    }
}

/// The oracle, for a disk on which `proposed` commands may be.
fn check(
    plant: Option<Plant>,
    image: &MemDisk,
    start: &Start,
    known: &Known,
    proposed: usize,
    counts: &mut Counts<'_>,
) -> Result<(), String> {
    let answered = if plant == Some(Plant::ExpectsTooMuch) { proposed + 1 } else { known.answered };
    let disk = plant::disk(plant, image, None);
    let here = Home::open(disk, dir()).and_then(|home| home.known()).map_err(|e| e.to_string())?;
    counts.count(if here.is_some() { "a member was there" } else { "no member yet" });
    if here.is_none() && known.boot > 0 {
        return Err("the member had started, and is gone".to_owned());
    }
    let is_initial = matches!(start, Start::Initial { .. });
    if let (true, Some(here)) = (is_initial, &here)
        && here.membership.as_ref().map(|list| list.members.len()) != Some(1)
    {
        return Err(format!("the member has another list: {:?}", here.membership));
    }
    let mut boot = known.boot;
    // Once on what the crash left, and once more on what that start left when its power went.
    for again in 0..2 {
        let mut life = Life::start(plant, image, start).map_err(|error| format!("start {again}: {error}"))?;
        if life.boot <= boot {
            return Err(format!("start number {} after {boot}", life.boot));
        }
        boot = life.boot;
        let (term, vote, commit) = life.hard_state();
        let (least_term, voted, least_commit) = known.hard_state;
        if term < least_term || commit < least_commit || (term == least_term && voted != 0 && vote != voted) {
            return Err(format!("term {term} vote {vote} commit {commit} after {:?}", known.hard_state));
        }
        if is_initial {
            if life.members() != 1 || commit == 0 {
                return Err(format!("{} members, commit {commit}", life.members()));
            }
            let probe = Bytes::from(format!("probe {again}"));
            life.propose(probe.clone()).map_err(|error| format!("takes no command: {error}"))?;
            let mut applied = life.applied();
            if applied.pop() != Some(probe) {
                return Err("the last command is not the last one applied".to_owned());
            }
            applied.retain(|command| !command.starts_with(b"probe"));
            let own = (0..applied.len()).all(|n| applied[n] == command(n));
            if !own || applied.len() < answered || applied.len() > proposed {
                return Err(format!(
                    "{} commands are applied (in order: {own}); {answered} were answered, {proposed} proposed",
                    applied.len()
                ));
            }
        }
        drop(life);
        image.crash_losing_all_unsynced();
    }
    Ok(())
}

fn first_boot(sink: &mut Sink<'_>, name: &str, start: &Start) {
    let (plant, bounds, base) = (sink.settings.plant, Bounds::full(sink), MemDisk::new());
    let work = |memory: &MemDisk| {
        let mut known = Known::default();
        run(plant, memory, start, 0, 0, &mut known);
        known
    };
    crash::at_every_step(sink, name, &base, bounds, &work, &|image, attempt, counts| {
        checked(plant, image, start, attempt, 0, counts)
    });
}

fn checked(
    plant: Option<Plant>,
    image: &MemDisk,
    start: &Start,
    attempt: &Attempt<Known>,
    proposed: usize,
    counts: &mut Counts<'_>,
) -> Result<(), String> {
    match &attempt.outcome.error {
        Some(error) if attempt.finished => Err(format!("failed, and the power was on: {error}")),
        _ => check(plant, image, start, &attempt.outcome, proposed, counts),
    }
}

/// The power goes in the first start, and in the one after it.
fn twice(sink: &mut Sink<'_>, part: u64, of: u64) {
    let (plant, start) = (sink.settings.plant, initial());
    let work = |memory: &MemDisk| {
        let mut known = Known::default();
        run(plant, memory, &start, 0, 0, &mut known);
        known
    };
    let mut step = 1 + part;
    loop {
        let disk = MemDisk::new();
        disk.power_off_at(step);
        let finished = work(&disk).error.is_none();
        for seed in 0..3 {
            let left = disk.fork();
            match seed {
                0 => left.crash_losing_all_unsynced(),
                1 => left.crash_choosing(&mut || true),
                _ => left.crash(sink.settings.seed ^ step),
            }
            let case = format!("twice-{step}.{seed}");
            crash::at_every_step(sink, &case, &left, Bounds::few(1, 1), &work, &|image, attempt, counts| {
                checked(plant, image, &start, attempt, 0, counts)
            });
        }
        if finished {
            return;
        }
        step += of;
    }
}

/// How a member came to its end.
#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    Killed,
    /// In the middle of a write, whose second half landed.
    Torn,
}

/// Commands before a restart: some snapshots, and a log behind the last.
const COMMANDS: usize = 11;

fn restart(sink: &mut Sink<'_>, end: End) {
    let base = MemDisk::new();
    let (start, plant, bounds) = (initial(), sink.settings.plant, Bounds::full(sink));
    let mut known = Known::default();
    let ended = (|| {
        let mut life = Life::start(None, &base, &start)?;
        for n in 0..COMMANDS {
            life.propose(command(n))?;
        }
        (known.boot, known.answered, known.hard_state) = (life.boot, COMMANDS, life.hard_state());
        // The last commit index may wait for a write that never came.
        known.hard_state.2 -= 1;
        match end {
            End::Closed => life.close()?,
            End::Killed => drop(life),
            End::Torn => {
                base.power_off_at(1);
                if life.propose(command(COMMANDS + 2)).is_ok() {
                    return Err("answered without power".to_owned());
                }
                drop(life);
                let mut landed = 0;
                base.crash_choosing(&mut || {
                    landed += 1;
                    landed % 2 == 0
                });
            }
        }
        base.crash_losing_all_unsynced();
        Ok(())
    })();
    if sink.setup("base", ended).is_none() {
        return;
    }
    let work = |memory: &MemDisk| {
        let mut known = known.clone();
        run(plant, memory, &start, 0, 0, &mut known);
        known
    };
    let name = format!("{end:?}").to_lowercase();
    crash::at_every_step(sink, &name, &base, bounds, &work, &|image, attempt, counts| {
        checked(plant, image, &start, attempt, COMMANDS, counts)
    });
}

fn life(sink: &mut Sink<'_>, part: u64, of: u64) {
    let (plant, start, base) = (sink.settings.plant, initial(), MemDisk::new());
    let bounds = Bounds { exhaustive: 8, samples: sink.settings.samples / 4, single: true };
    let work = |memory: &MemDisk| {
        let mut known = Known::default();
        run(plant, memory, &start, 0, COMMANDS, &mut known);
        known
    };
    let whole = base.fork();
    let known = work(&whole);
    if sink.setup("life", has_everything(&whole, &known)).is_none() {
        return;
    }
    let mut step = 1 + part;
    while !crash::at_step(sink, "life", &base, step, bounds, &work, &|image, attempt, counts| {
        let proposed = COMMANDS.min(attempt.outcome.answered + 1);
        checked(plant, image, &start, attempt, proposed, counts)
    }) {
        step += of;
    }
}

/// Whether a life had in it what it is meant to have: all its answers, snapshots, and a log that was released.
fn has_everything(disk: &MemDisk, known: &Known) -> Result<(), String> {
    let names = |of: &str| disk.list(&dir().join(of)).map_err(|error| error.to_string());
    let (log, snapshots) = (names("wal")?, names("snap")?);
    let first_released = !log.iter().any(|name| name.starts_with("0000000000000000-"));
    let taken = snapshots.iter().any(|name| !name.ends_with("-0000000000000001.snap"));
    match known.answered == COMMANDS && first_released && taken {
        true => Ok(()),
        false => Err(format!("{} answers, log {log:?}, snapshots {snapshots:?}", known.answered)),
    }
}
