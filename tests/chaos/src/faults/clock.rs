//! Wall clocks that jump, through libfaketime.

use kvd_tests::wait_until;

use super::Fault;
use crate::cluster::{Cluster, PATIENCE};
use crate::rng::Rng;

struct Jumped {
    id: u64,
    log: usize,
}

fn set(cluster: &Cluster, id: u64, offset: &str) -> Result<(), String> {
    let path = cluster.clock_file(id);
    // Renamed into place: the library reads it at any moment.
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{offset}\n"))
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// The year at the beginning of each line of a log that has one.
fn years(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.get(4..5) == Some("-") && line.get(10..11) == Some("T")).map(|l| &l[..4])
}

pub(super) fn jump(cluster: &mut Cluster, victims: &[u64], rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let id = victims[0];
    let log = cluster.slot_mut(id).member.log().len();
    set(cluster, id, rng.pick(&["+4000d", "-4000d"]))?;
    Ok(Box::new(Jumped { id, log }))
}

impl Fault for Jumped {
    /// Starts the member again in the other time, so that its log has lines of it, and lets the clock jump back.
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let Jumped { id, log } = *self;
        let before = cluster.slot_mut(id).member.log()[..log].to_owned();
        cluster.slot_mut(id).member.kill();
        cluster.restart(id);
        let member = &mut cluster.slot_mut(id).member;
        let said = wait_until(&format!("member {id} logs its start"), PATIENCE, || {
            let said = member.log().split_off(log);
            (said.contains("member opened") || member.try_exit().is_some()).then_some(said)
        });
        set(cluster, id, "+0")?;
        let usual = years(&before).next().unwrap_or_default();
        match years(&said).last() {
            Some(year) if year != usual => Ok(format!("member {id} went from {usual} to {year} and back")),
            other => Err(format!("the clock of member {id} did not jump: {usual}, then {other:?}")),
        }
    }
}
