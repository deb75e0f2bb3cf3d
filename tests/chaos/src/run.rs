//! One run: a cluster, its clients, what is done to them, and the verdict.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_linearizability::{Action, History, Limits, Outcome, Report, check};
use kvd_tests::wait_until;

use crate::capabilities;
use crate::clients::{Clients, Plant, Recorder};
use crate::cluster::{Cluster, PATIENCE, Storage};
use crate::door::http::Http;
use crate::faults::{self, Fault, Kind};
use crate::rng::Rng;

/// Clients of a run: enough that most operations overlap others.
const CLIENTS: u64 = 6;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its choices.
    pub seed: u64,
    /// How long faults go on, at least; every kind happens once in any case.
    pub seconds: u64,
    /// How many members the cluster has.
    pub members: u64,
    /// The faults.
    pub kinds: Vec<Kind>,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Under which directory runs are kept.
    pub keep: PathBuf,
}

/// How often a fault happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// How often it was begun.
    pub begun: u64,
    /// How often it was shown to have happened.
    pub shown: u64,
    /// What showed it the last time.
    pub evidence: String,
}

/// What came out of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The faults that were to happen.
    pub faults: BTreeMap<Kind, Happened>,
    /// Those that cannot happen here, and why.
    pub skipped: BTreeMap<Kind, String>,
    /// What the checker said, if it came to that.
    pub report: Option<Report>,
    /// Operations by outcome: ok, refused, nothing done, unknown.
    pub outcomes: [usize; 4],
    /// Everything that is wrong.
    pub failures: Vec<String>,
    /// The history, if it was kept.
    pub history: Option<PathBuf>,
}

impl Verdict {
    /// Whether the run passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.report.as_ref().is_some_and(Report::passed)
    }

    /// How many faults were shown to have happened.
    pub fn shown(&self) -> u64 {
        self.faults.values().map(|happened| happened.shown).sum()
    }
}

/// Runs once.
pub fn run(settings: &Settings) -> Verdict {
    let mut verdict = Verdict::default();
    let mut kinds = Vec::new();
    for kind in &settings.kinds {
        match capabilities::missing(*kind) {
            Some(why) => drop(verdict.skipped.insert(*kind, why)),
            None => kinds.push(*kind),
        }
    }
    let directory = settings.keep.join(format!("seed-{}", settings.seed));
    let recorder = Arc::new(Recorder::default());
    let base = match fresh(&directory) {
        Ok(()) => {
            let live = || live(settings, &kinds, &directory, &recorder, &mut verdict);
            catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|panic| Err(words(&*panic)))
        }
        Err(error) => Err(error),
    };
    verdict.failures.extend(recorder.wrong());
    let base = base.map_err(|failure| verdict.failures.push(failure)).ok();
    for (kind, happened) in &verdict.faults {
        if happened.shown < happened.begun || happened.shown == 0 {
            verdict.failures.push(format!("{kind} was to happen and is not shown to have happened"));
        }
    }

    let history = History::new(base, recorder.ops());
    for op in &history.ops {
        let at = match op.outcome {
            Outcome::Ok => 0,
            Outcome::Refused => 1,
            Outcome::Fail => 2,
            Outcome::Unknown => 3,
        };
        verdict.outcomes[at] += 1;
    }
    verdict.report = Some(check(&history, &Limits::default()));
    let kept = match verdict.passed() {
        true => fs::remove_dir_all(&directory).map(|()| None),
        false => keep(&history, &directory).map(Some),
    };
    match kept {
        Ok(path) => verdict.history = path,
        Err(error) => verdict.failures.push(format!("{}: {error}", directory.display())),
    }
    verdict
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

pub(crate) fn fresh(directory: &Path) -> Result<(), String> {
    let error = |e: std::io::Error| format!("{}: {e}", directory.display());
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(error)?;
    }
    fs::create_dir_all(directory).map_err(error)
}

pub(crate) fn keep(history: &History, directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("history.jsonl");
    history.write(BufWriter::new(fs::File::create(&path)?))?;
    Ok(path)
}

/// Everything that needs the cluster. Returns the revision at which it began.
fn live(
    settings: &Settings,
    kinds: &[Kind],
    directory: &Path,
    recorder: &Arc<Recorder>,
    verdict: &mut Verdict,
) -> Result<u64, String> {
    let has = |kind: Kind| kinds.contains(&kind);
    let power = has(Kind::PowerLoss) || has(Kind::PowerLossAll);
    let storage = |id| match id == settings.members {
        true if has(Kind::FullDisk) => Storage::Tmpfs,
        _ if power => Storage::Ext4,
        _ => Storage::Plain,
    };
    let mut cluster = Cluster::prepare(directory, settings.members, has(Kind::Clock), storage)?;
    let (kinds, unfit): (Vec<Kind>, Vec<Kind>) =
        kinds.iter().partition(|kind| cluster.ids().iter().any(|id| kind.fits(&cluster, *id)));
    for kind in unfit {
        verdict.skipped.insert(kind, "no member lies on what it needs: give the cluster more members".into());
    }
    // What is to happen and never begins fails the run as well.
    verdict.faults.extend(kinds.iter().map(|kind| (*kind, Happened::default())));
    cluster.start();
    let first = cluster.addresses.lock().expect("nobody panics with it")[0];
    let conditions = Http::has_conditions(first.http);
    // The store's revision before the first write of a client.
    let probe = Recorder::default();
    let read = probe.ask(&mut Http::new(first.http, false), 0, "planted", Action::Get, None);
    let base = read.revision.ok_or_else(|| format!("the first read has no revision: {read}"))?;

    let clients = Clients::start(CLIENTS, settings.seed, &cluster.addresses, recorder, conditions);
    wait_for_more(recorder, "writes begin");
    let mut rounds = Rounds::new(settings, &kinds);
    let begun = Instant::now();
    let mut planted = settings.plant.is_none();
    let duration = Duration::from_secs(settings.seconds);
    while begun.elapsed() < duration || !rounds.is_complete() {
        rounds.once(&mut cluster, &mut verdict.faults)?;
        cluster.wait_ready();
        wait_for_more(recorder, "writes go on after the faults");
        if let (Some(plant), false) = (settings.plant, planted) {
            let address = cluster.addresses.lock().expect("nobody panics with it")[0];
            plant.plant(recorder, address)?;
            planted = true;
        }
    }
    clients.finish();
    farewell(&cluster, recorder);
    verdict.failures.extend(cluster.complaints());
    for slot in cluster.slots.iter_mut().filter(|slot| !slot.removed) {
        slot.member.stop();
    }
    Ok(base)
}

pub(crate) fn wait_for_more(recorder: &Recorder, what: &str) {
    let goal = recorder.acknowledged() + 20;
    wait_until(what, PATIENCE, || (recorder.acknowledged() >= goal).then_some(()));
}

/// Reads every key at every member.
pub(crate) fn farewell(cluster: &Cluster, recorder: &Recorder) {
    let keys: BTreeSet<String> = recorder.ops().into_iter().map(|op| op.key).collect();
    for address in cluster.addresses.lock().expect("nobody panics with it").iter() {
        let mut door = Http::new(address.http, false);
        for key in &keys {
            wait_until(&format!("a read of {key} is served by the healthy cluster"), PATIENCE, || {
                let op = recorder.ask(&mut door, 0, key, Action::Get, None);
                (op.outcome == Outcome::Ok).then_some(())
            });
        }
    }
}

/// The schedule: rounds of one to three faults at once.
struct Rounds<'a> {
    kinds: &'a [Kind],
    rng: Rng,
    deck: Vec<Kind>,
    began: usize,
}

impl<'a> Rounds<'a> {
    fn new(settings: &Settings, kinds: &'a [Kind]) -> Rounds<'a> {
        Rounds { kinds, rng: Rng::new(settings.seed), deck: Vec::new(), began: 0 }
    }

    /// Whether every kind has had its turn.
    fn is_complete(&self) -> bool {
        self.began >= self.kinds.len()
    }

    fn once(&mut self, cluster: &mut Cluster, faults: &mut BTreeMap<Kind, Happened>) -> Result<(), String> {
        // Without faults, a round is a moment of peace.
        let hold = Duration::from_millis(300 + self.rng.below(1200));
        let mut free = cluster.ids();
        let mut active: Vec<(Kind, Box<dyn Fault>)> = Vec::new();
        for kind in self.next_kinds() {
            let Some(victims) = faults::choose(kind, cluster, &mut free, &mut self.rng) else { continue };
            let happened = faults.entry(kind).or_default();
            happened.begun += 1;
            let fault = faults::begin(kind, cluster, &victims, &mut self.rng)
                .map_err(|error| format!("{kind} at {victims:?}: {error}"))?;
            active.push((kind, fault));
        }
        std::thread::sleep(hold); // for so long they last

        // A cut shows when somebody sends, so processes run again first; a fault of a disk shows when something is
        // written, and a member joins when somebody leads, so links are mended before those.
        let rank = |kind: Kind| match kind {
            kind if kind.is_network() => 1,
            Kind::DiskError | Kind::DiskDelay | Kind::FullDisk | Kind::Membership => 2,
            _ => 0,
        };
        active.sort_by_key(|(kind, _)| rank(*kind));
        for (kind, fault) in active {
            let evidence = fault.end(cluster).map_err(|error| format!("{kind}: {error}"))?;
            let happened = faults.entry(kind).or_default();
            happened.shown += 1;
            happened.evidence = evidence;
        }
        Ok(())
    }

    /// The next kind of the deck, and up to two others.
    fn next_kinds(&mut self) -> Vec<Kind> {
        if self.kinds.is_empty() {
            return Vec::new();
        }
        if self.deck.is_empty() {
            self.deck = self.kinds.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        self.began += 1;
        let mut next: Vec<Kind> = self.deck.pop().into_iter().collect();
        for _ in 0..self.rng.below(3) {
            let other = self.rng.pick(self.kinds);
            // Links have one state: faults of the network would undo each other.
            let clashes = other.is_network() && next.iter().any(|kind| kind.is_network());
            if !next.contains(&other) && !clashes {
                next.push(other);
            }
        }
        next
    }
}
