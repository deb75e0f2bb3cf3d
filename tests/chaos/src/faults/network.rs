//! Links between members that are cut or slow.

use std::time::Duration;

use kvd_tests::wait_until;

use super::Fault;
use crate::cluster::{Cluster, PATIENCE};
use crate::proxy::{Between, Link};
use crate::rng::Rng;

struct Cut {
    links: Vec<Between>,
    before: Vec<u64>,
}

fn cut(cluster: &mut Cluster, links: Vec<Between>, rng: &mut Rng) -> Box<dyn Fault> {
    let before = links.iter().map(|link| cluster.network.held(*link)).collect();
    cluster.network.set(links.iter().copied(), Link::Cut);
    // Half of the time what is connected is cut off as well, and dialled again into the cut.
    if rng.below(2) == 0 {
        cluster.break_connections(&links);
    }
    Box::new(Cut { links, before })
}

/// Cuts one member off, both ways.
pub(super) fn partition(cluster: &mut Cluster, rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let ids = cluster.ids();
    let lonely = rng.pick(&ids);
    let others = ids.into_iter().filter(|id| *id != lonely);
    let links = others.flat_map(|other| [(lonely, other), (other, lonely)]).collect();
    Ok(cut(cluster, links, rng))
}

/// Nothing gets from one member to any other (it is mute), or from any other to it (it is deaf).
pub(super) fn one_way(cluster: &mut Cluster, rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let ids = cluster.ids();
    let half = rng.pick(&ids);
    let mute = rng.below(2) == 0;
    let others = ids.into_iter().filter(|id| *id != half);
    let links = others.map(|other| if mute { (half, other) } else { (other, half) }).collect();
    Ok(cut(cluster, links, rng))
}

impl Fault for Cut {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let Cut { links, before } = *self;
        let held = || -> u64 {
            links.iter().zip(&before).map(|(link, before)| cluster.network.held(*link) - before).sum()
        };
        let held = wait_until("bytes meet the cut", PATIENCE, || Some(held()).filter(|bytes| *bytes > 0));
        cluster.network.mend();
        Ok(format!("{held} bytes were held back on {} links", links.len()))
    }
}

struct SlowLinks(u64);

/// Everything between all members is 5 to 105 ms late.
pub(super) fn slow(cluster: &mut Cluster, rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let ids = cluster.ids();
    let delay = Duration::from_millis(5 + rng.below(100));
    let links = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
    cluster.network.set(links, Link::Slow(delay));
    Ok(Box::new(SlowLinks(cluster.network.slowed())))
}

impl Fault for SlowLinks {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let slowed = || Some(cluster.network.slowed() - self.0).filter(|bytes| *bytes > 0);
        let slowed = wait_until("bytes meet the slow links", PATIENCE, slowed);
        cluster.network.mend();
        Ok(format!("{slowed} bytes were late"))
    }
}
