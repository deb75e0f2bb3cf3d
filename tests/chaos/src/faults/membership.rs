//! Members that come and go.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::Rng;

struct Changed {
    added: u64,
    removed: u64,
}

/// Adds a member, and removes another one.
pub(super) fn change(cluster: &mut Cluster, rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let ids = cluster.ids();
    let removed = rng.pick(&ids);
    // On the same kind of file system: what can only be done to such a member can be done again.
    let storage = cluster.slot_mut(removed).storage;
    let added = cluster.add(storage)?;
    Ok(Box::new(Changed { added, removed }))
}

impl Fault for Changed {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let Changed { added, removed } = *self;
        cluster.wait_ready();
        cluster.publish();
        cluster.remove(removed)?;
        Ok(format!("member {added} joined, member {removed} left"))
    }
}
