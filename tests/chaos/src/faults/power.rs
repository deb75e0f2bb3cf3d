//! Power that goes away: what was not synced is lost.

use super::Fault;
use crate::cluster::Cluster;

struct Dark {
    victims: Vec<u64>,
    evidence: String,
}

pub(super) fn cut(cluster: &mut Cluster, victims: &[u64]) -> Result<Box<dyn Fault>, String> {
    let mut evidence = String::new();
    for id in victims {
        evidence = cluster.slot_mut(*id).cut_power()?;
    }
    Ok(Box::new(Dark { victims: victims.to_vec(), evidence }))
}

impl Fault for Dark {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        for id in &self.victims {
            cluster.slot_mut(*id).restore_power()?;
            cluster.restart(*id);
        }
        Ok(format!("members {:?}: {}", self.victims, self.evidence))
    }
}
